"""The blocks of a folder of backups: files of at most 4 MiB named by their content, so that each is stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from recserve_server_ext.backup.sealing import Plain
from recserve_server_ext.common.errors import BackupError
from recserve_server_ext.common.files import write_file
from recserve_server_ext.common.units import MIB

BLOCK_BYTES: Final = 4 * MIB
FOLDER: Final = "blocks"
_ADVICE: Final = "this backup cannot be restored"


class Blocks:
    """Reads and writes blocks.

    Attributes:
        used: SHA-256 of the blocks that were put, as they are stored, by name.
        written: Size of those that were not there before.
    """

    def __init__(self, folder: Path, sealing: Plain, known: Mapping[str, str] | None = None) -> None:
        """
        Args:
            folder: Folder of backups.
            sealing: Names and seals blocks.
            known: SHA-256 of blocks that whole backups hold, by name: these are not written again.
        """
        self._folder = folder / FOLDER
        self._sealing = sealing
        self._known = known or {}
        self.used: dict[str, str] = {}
        self.written = 0

    def put(self, content: bytes) -> str:
        """Store a block, fsynced when this returns; its name."""
        name = self._sealing.name(content)
        if name in self.used:
            return name
        path = self.path(name)
        if name in self._known and _size(path) == len(content) + self._sealing.overhead:
            self.used[name] = self._known[name]
            return name
        stored = self._sealing.seal(name, content)
        write_file(path, stored, mode=0o600)
        self.written += len(stored)
        self.used[name] = hashlib.sha256(stored).hexdigest()
        return name

    def put_file(self, path: Path) -> tuple[list[str], int]:
        """Store a file; the names of its blocks in their order, and its size."""
        names, size = [], 0
        with path.open("rb") as file:
            while content := file.read(BLOCK_BYTES):
                names.append(self.put(content))
                size += len(content)
        return names, size

    def get(self, name: str, sha256: str | None) -> bytes:
        """The content of a block.

        Args:
            sha256: Of the block as it is stored; `None` where the manifest does not name it.

        Raises:
            BackupError: It is missing or damaged.
        """
        path = self.path(name)
        if sha256 is None:
            raise BackupError(f"the manifest does not name the block {name[:12]}; {_ADVICE}")
        try:
            stored = path.read_bytes()
        except FileNotFoundError:
            raise BackupError(f"{path} is missing; {_ADVICE}") from None
        except OSError as error:
            raise BackupError(f"{path} cannot be read: {error.strerror or error}; {_ADVICE}") from error
        if (found := hashlib.sha256(stored).hexdigest()) != sha256:
            raise BackupError(f"{path} is damaged: SHA-256 {found[:12]}, manifest says {sha256[:12]}; {_ADVICE}")
        return self._sealing.unseal(name, stored)

    def path(self, name: str) -> Path:
        """The file of a block."""
        return self._folder / name[:2] / name

    def remove_others(self, keep: Collection[str]) -> int:
        """Remove every other block, and what killed writers left; how many bytes went."""
        gone = 0
        for path in self._all():
            if path.name not in keep:
                gone += _size(path)
                path.unlink(missing_ok=True)
        return gone

    def _all(self) -> Iterator[Path]:
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else ()
        return (path for folder in folders for path in sorted(folder.iterdir()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
