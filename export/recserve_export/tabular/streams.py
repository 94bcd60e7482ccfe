"""Bytes of a source that can be read several times: files, compressed files, members of archives, pipes."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

from recserve_client.contract import nearest
from recserve_export.errors import SourceError
from recserve_export.tabular.options import ENDINGS, Compression

STANDARD_INPUT: Final = "-"
_MAGIC: Final[dict[bytes, Compression]] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # without any file
    **{bytes((kind, 0x2A, 0x4D, 0x18)): "zstd" for kind in range(0x50, 0x60)},  # a frame that is passed over
}
_LONGEST_MAGIC: Final = 6
_ENDINGS: Final = (".gz", ".bz2", ".zst", ".zstd", ".xz", ".zip")
_CHUNK: Final = 1 << 20
#: Bytes of Zstandard that are decompressed at a time.
_PACKED: Final = 1 << 14
#: RuntimeError is what an encrypted archive raises.
_FAULTS: Final[tuple[type[Exception], ...]] = (OSError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError)


class Stream:
    """The bytes of a source. They can be opened several times and are the same each time.

    A pipe is copied to a temporary file first. Of a file that grows, only the bytes are read that it had at first.

    Attributes:
        name: What the source is called.
        size: Size in bytes, compressed where it is compressed.
        compression: How it is compressed.
    """

    def __init__(self, where: str | Path, compression: Compression | None = None) -> None:
        """Open a source.

        Raises:
            SourceError: It is missing, or cannot be read.
        """
        self.where = str(where)
        self._spool: IO[bytes] | None = None
        self._member = ""
        self._path = Path(where)
        self._raw: IO[bytes] | None = None
        self.name = "standard input" if self.where == STANDARD_INPUT else self._path.name
        with readable(self.where):
            self._locate()
            self.size = os.stat(self._file).st_size if self._spool is None else self._spool.seek(0, io.SEEK_END)
            self.compression: Compression = compression or self._compression()
        if self.compression == "zip":
            self._member = self._member or self._only_member()

    @property
    def inner_name(self) -> str:
        """The name without the ending of its compression: what tells the format."""
        name = Path(self._member).name or self.name
        return name.rpartition(".")[0] if name.lower().endswith(_ENDINGS) else name

    @property
    def done(self) -> int:
        """Position in the file as it is stored, in bytes."""
        try:
            return 0 if self._raw is None else min(self._raw.tell(), self.size)
        except ValueError:  # closed: all was read
            return self.size

    @property
    def grew(self) -> int:
        """Bytes that the file has got since it was opened."""
        return 0 if self._spool is not None else max(0, os.stat(self._file).st_size - self.size)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The decompressed bytes.

        Raises:
            SourceError: They cannot be read, or the file ends before its end.
        """
        with readable(self.where):
            self._raw = self._opened()
            with self._raw, self._decompressed(self._raw) as stream:
                yield stream

    def head(self, size: int) -> bytes:
        """The first decompressed bytes."""
        with self.open() as stream:
            return stream.read(size)

    def sha256(self) -> str:
        """Hex SHA-256 of the bytes as they are stored."""
        found = hashlib.sha256(self._member.encode())
        with readable(self.where), self._opened() as raw:
            while chunk := raw.read(_CHUNK):
                found.update(chunk)
        return found.hexdigest()

    def seekable(self) -> IO[bytes]:
        """A file object of the decompressed bytes that can seek; a temporary copy where it is compressed."""
        if self.compression == "none":
            return self._opened()
        copy = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
        with self.open() as stream:
            shutil.copyfileobj(stream, copy, _CHUNK)
        copy.seek(0)
        return copy

    @property
    def _file(self) -> str | int:
        return str(self._path) if self._spool is None else self._spool.fileno()

    def _locate(self) -> None:
        if self.where == STANDARD_INPUT:
            self._copy(sys.stdin.buffer)
            return
        for folder in self._path.parents:
            if folder.suffix.lower() == ".zip" and folder.is_file():
                self._member = self._path.relative_to(folder).as_posix()
                self._path = folder
        if not self._path.exists():
            raise SourceError(f"no file {self.where}{_near(self._path)}")
        if self._path.is_dir():
            raise SourceError(f"{self.where} is a folder without Parquet files; name a file")
        if not stat.S_ISREG(self._path.stat().st_mode):
            with self._path.open("rb") as pipe:
                self._copy(pipe)

    def _copy(self, pipe: IO[bytes]) -> None:
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the stream
        shutil.copyfileobj(pipe, self._spool, _CHUNK)
        self._spool.flush()

    def _opened(self) -> IO[bytes]:
        if self._spool is not None:
            # Not a duplicate: that would share the position.
            return cast(IO[bytes], open(f"/proc/self/fd/{self._spool.fileno()}", "rb"))
        return cast(IO[bytes], io.BufferedReader(_Bounded(self._path, self.size), _CHUNK))

    def _compression(self) -> Compression:
        with self._opened() as raw:
            found = _packed(raw.read(_LONGEST_MAGIC))
            if found == "zip" and self._is_workbook(raw):
                return "none"
        return found

    def _is_workbook(self, raw: IO[bytes]) -> bool:
        with zipfile.ZipFile(raw) as archive:
            names = set(archive.namelist())
        return bool(names & {"[Content_Types].xml", "content.xml"})

    def _only_member(self) -> str:
        with readable(self.where), self._opened() as raw, zipfile.ZipFile(raw) as archive:
            names = [one.filename for one in archive.infolist() if not one.is_dir() and "__MACOSX/" not in one.filename]
        if len(names) != 1:
            tables = [name for name in names if Path(name.lower().removesuffix(".gz")).suffix in ENDINGS]
            names = [*tables, *(name for name in names if name not in tables)]
            some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise SourceError(
                f"{self.where} holds {len(names)} files; name one, as in {self.where}/{names[0] if names else 'NAME'}"
                + (f"; it has: {some}" if names else "")
            )
        return names[0]

    @contextmanager
    def _decompressed(self, raw: IO[bytes]) -> Iterator[IO[bytes]]:
        if self.compression == "none":
            yield raw
        elif self.compression == "zip":
            with zipfile.ZipFile(raw) as archive:
                if self._member not in archive.namelist():
                    known = archive.namelist()
                    raise SourceError(
                        f"{self._path} has no file {self._member!r}{nearest(self._member, known)}; "
                        f"it has: {', '.join(known[:20])}"
                    )
                with archive.open(self._member) as member:
                    packed = _packed(member.read(_LONGEST_MAGIC))
                    member.seek(0)
                    if packed in _OPENERS:
                        with _OPENERS[packed](member) as stream:
                            yield stream
                    else:
                        yield member
        else:
            with _OPENERS[self.compression](raw) as stream:
                yield stream


class _Bounded(io.RawIOBase):
    """The first bytes of a file; a file that became shorter is an error."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._size = size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            offset, whence = self._size + offset, io.SEEK_SET
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        left = self._size - self._file.tell()
        if left <= 0:
            return 0
        count = self._file.readinto(memoryview(buffer)[:left])
        if not count:
            raise SourceError(f"{self._file.name} became shorter while it was read")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class _Zstd(io.RawIOBase):
    """Decompressed Zstandard frames; a frame that is cut off is an error, which the library's own reader hides."""

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._make = zstandard.ZstdDecompressor().decompressobj
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        rest = b""
        while not self._ready:
            packed = rest or self._raw.read(_PACKED)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._frame = self._frame or self._make()
            self._ready = memoryview(self._frame.decompress(packed))
            if self._frame.eof:
                rest, self._frame = self._frame.unused_data, None
                if rest and self._ready:
                    self._raw.seek(-len(rest), io.SEEK_CUR)
        count = min(len(buffer), len(self._ready))
        buffer[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count


_OPENERS: Final[dict[str, Callable[[IO[bytes]], IO[bytes]]]] = {
    "gzip": lambda raw: cast(IO[bytes], gzip.GzipFile(fileobj=raw)),
    "bz2": lambda raw: cast(IO[bytes], bz2.BZ2File(raw)),
    "xz": lambda raw: cast(IO[bytes], lzma.LZMAFile(raw)),  # noqa: SIM115
    "zstd": lambda raw: cast(IO[bytes], io.BufferedReader(_Zstd(raw), _CHUNK)),
}


def _packed(head: bytes) -> Compression:
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "none")


def _near(path: Path) -> str:
    folder = path.parent
    names = [one.name for one in folder.iterdir()][:1000] if folder.is_dir() else []
    return nearest(path.name, names)


@contextmanager
def readable(where: str, errors: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors of reading a source into `SourceError`."""
    try:
        yield
    except EOFError as error:
        raise SourceError(f"{where} is cut off: its compressed data ends before its end") from error
    except (*_FAULTS, *errors) as error:
        raise SourceError(f"{where} cannot be read: {error}") from error
    except Exception as error:
        if type(error).__module__.startswith(("zstd", "zstandard")):
            raise SourceError(f"{where} cannot be read: {error}") from error
        raise
