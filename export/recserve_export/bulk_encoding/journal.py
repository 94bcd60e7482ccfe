"""Vector journal: vectors of texts kept on disk while a catalogue is encoded, so that a killed build goes on.

A part is one file with a digest and a vector for each text. It is there whole or not at all, and its name is its
checksum.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

from recserve_export.bulk_encoding.columns import Encoder
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.files import sha256_of, write_file

#: Texts of a part: what is lost when the job is killed.
PART: Final = 1024
_DIGEST_BYTES: Final = 16
_CHECKSUM: Final = 16


class VectorJournal:
    """An encoder that keeps what it encoded in a folder that belongs to it alone.

    Attributes:
        dim: Length of a vector.
    """

    def __init__(self, encoder: Encoder, folder: Path, *, part: int = PART) -> None:
        """
        Args:
            encoder: What encodes the texts that are not known.
            folder: Folder of this encoder; what other encoders left beside it is removed, and so are damaged parts.
            part: Texts of a part.
        """
        self.dim = encoder.dim
        self._encoder = encoder
        self._folder = folder
        self._size = part
        self._row = np.dtype([("digest", f"V{_DIGEST_BYTES}"), ("vector", "<f4", (encoder.dim,))])
        self._places: dict[bytes, tuple[Path, int]] = {}
        if folder.parent.is_dir():
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
        for file in sorted(folder.glob("*.part")) if folder.is_dir() else ():
            self._remember(file)

    def encode(self, texts: list[str], *, done: Callable[[int], None] | None = None) -> Vectors:
        """Unit vectors of the texts, [texts, dim]; those that are known are read.

        `done` is called with the number of texts that were known, and then after each part.
        """
        vectors = np.empty((len(texts), self.dim), np.float32)
        digests = [_digest(text) for text in texts]
        known = [row for row, digest in enumerate(digests) if digest in self._places]
        self._fill(vectors, known, digests)
        if done is not None and known:
            done(len(known))
        # By length, as the encoder batches them.
        missing = sorted(
            (row for row, digest in enumerate(digests) if digest not in self._places), key=lambda row: len(texts[row])
        )
        for start in range(0, len(missing), self._size):
            rows = missing[start : start + self._size]
            vectors[rows] = self._encoder.encode([texts[row] for row in rows])
            self._keep([digests[row] for row in rows], vectors[rows])
            if done is not None:
                done(len(rows))
        return vectors

    def forget(self) -> None:
        """Remove the folder: what was encoded is in a snapshot."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with suppress(OSError):  # another build may have begun beside it
            self._folder.parent.rmdir()
        self._places.clear()

    def _keep(self, digests: Sequence[bytes], vectors: Vectors) -> None:
        rows = np.empty(len(digests), self._row)
        rows["digest"] = np.frombuffer(b"".join(digests), f"V{_DIGEST_BYTES}")
        rows["vector"] = vectors
        content = rows.tobytes()
        file = self._folder / f"{hashlib.sha256(content).hexdigest()[:_CHECKSUM]}.part"
        write_file(file, content)
        self._places.update((digest, (file, place)) for place, digest in enumerate(digests))

    def _remember(self, file: Path) -> None:
        size = file.stat().st_size
        if size % self._row.itemsize or sha256_of(file)[:_CHECKSUM] != file.stem:
            file.unlink()
            return
        rows = np.memmap(file, self._row, mode="r")
        self._places.update((digest.tobytes(), (file, place)) for place, digest in enumerate(rows["digest"]))

    def _fill(self, vectors: Vectors, known: Sequence[int], digests: Sequence[bytes]) -> None:
        by_file: dict[Path, list[int]] = {}
        for row in known:
            by_file.setdefault(self._places[digests[row]][0], []).append(row)
        for file, rows in by_file.items():
            kept = np.memmap(file, self._row, mode="r")
            vectors[rows] = kept["vector"][[self._places[digests[row]][1] for row in rows]]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()
