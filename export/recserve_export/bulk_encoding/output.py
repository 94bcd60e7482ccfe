"""Output of `recserve catalogue encode`, looked up by what each vector was made from.

24 bytes of a row are held in memory; vectors are read when they are asked for, one row group of a file at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recserve_export.bulk_encoding.job import SCHEMA, read_job, readable
from recserve_export.errors import ExportError
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.encoder.item_vectors import MADE_FROM_BYTES

#: Digests as numpy compares and sorts them.
_DIGEST = f"S{MADE_FROM_BYTES}"
#: How far the length of a unit vector may be from 1: far more than rounding, far less than another scale.
_UNIT = 1e-3


class _Index(NamedTuple):
    """Where to find what; a place is a row, counted over all files.

    Attributes:
        files: In the order of their rows.
        first: [files + 1] place of the first row of each file, and the number of places.
        digests: [distinct] sorted.
        places: [distinct] the first place of each digest.
    """

    files: list[Path]
    first: Ints
    digests: NDArray[np.bytes_]
    places: Ints


class EncodedVectors:
    """Item vectors in an output folder; a job that was stopped has those that were done."""

    def __init__(self, folder: Path, encoder: str, field_weights: Mapping[str, float]) -> None:
        """
        Args:
            folder: The output folder; its files are first read when something is looked up.
            encoder: Runtime fingerprint of what must have made the vectors.
            field_weights: a_f that must have been used.

        Raises:
            ExportError: It is no output folder, or was made with another encoder or other field weights.
        """
        job = read_job(folder)
        if job.encoder != encoder:
            raise ExportError(
                f"{folder} was made with encoder {job.encoder}, the index is built with {encoder}; "
                "encode with that one into an empty folder"
            )
        if job.mapping.field_weights != field_weights:
            raise ExportError(
                f"{folder} was made with the field weights {_shown(job.mapping.field_weights)}, the catalogue has "
                f"{_shown(field_weights)}; encode with those into an empty folder"
            )
        self._folder = folder

    def find(self, made_from: Sequence[bytes]) -> Ints:
        """The place of the vector that was made from each of these digests, [n]; -1 where there is none.

        Raises:
            ExportError: A file cannot be read.
        """
        index = self._index
        if not len(index.digests):
            return np.full(len(made_from), -1, np.int64)
        wanted = np.frombuffer(b"".join(made_from), _DIGEST)
        at = np.minimum(np.searchsorted(index.digests, wanted), len(index.digests) - 1)
        return np.where(index.digests[at] == wanted, index.places[at], -1)

    def fill(self, vectors: Vectors, rows: Ints, places: Ints) -> None:
        """Set `vectors[rows]` to the vectors at these places; rows and places [n], vectors [items, dim].

        Raises:
            ExportError: A file cannot be read, or has no unit vector of this length there.
        """
        index = self._index
        order = np.argsort(places, kind="stable")
        rows, places = rows[order], places[order]
        ends = np.searchsorted(places, index.first)
        for file, first, start, stop in zip(index.files, index.first[:-1], ends[:-1], ends[1:], strict=True):
            if start < stop:
                with readable(file):
                    _fill_from(file, vectors, rows[start:stop], places[start:stop] - first)

    @cached_property
    def _index(self) -> _Index:
        files = sorted(self._folder.glob("[!.]*.parquet"))
        first, digests, places = [0], [np.empty(0, _DIGEST)], [np.empty(0, np.int64)]
        for file in files:
            with readable(file):
                rows, row, found = _digests(file)
            digests.append(found)
            places.append(row + first[-1])
            first.append(first[-1] + rows)
        distinct, at = np.unique(np.concatenate(digests), return_index=True)
        return _Index(files, np.array(first, np.int64), distinct, np.concatenate(places)[at])


def _digests(file: Path) -> tuple[int, Ints, NDArray[np.bytes_]]:
    """Rows of a file, those that have a vector, and what it was made from."""
    opened = _opened(file)
    if not opened.schema_arrow.equals(SCHEMA):
        raise ExportError(f"{file} was not written by recserve catalogue encode: its columns are other ones")
    column = opened.read(columns=["made_from"])["made_from"].combine_chunks()
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    kept = column.drop_null()
    raw = b"" if not len(kept) else kept.buffers()[1]
    return len(column), rows, np.frombuffer(raw, _DIGEST, count=len(kept), offset=kept.offset * MADE_FROM_BYTES)


def _fill_from(file: Path, vectors: Vectors, rows: Ints, places: Ints) -> None:
    """`EncodedVectors.fill` from one file; places are rows of it, rising."""
    opened, end = _opened(file), 0
    for group in range(opened.num_row_groups):
        first, end = end, end + opened.metadata.row_group(group).num_rows
        start, stop = np.searchsorted(places, [first, end])
        if start < stop:
            column = opened.read_row_group(group, columns=["vector"])["vector"].combine_chunks()
            taken = column.take(pa.array(places[start:stop] - first))
            vectors[rows[start:stop]] = _checked(file, taken, vectors.shape[1])
    if end <= places[-1]:
        raise ExportError(f"{file} has fewer rows than before: it was changed meanwhile; try again")


def _checked(file: Path, column: pa.ListArray, dim: int) -> Vectors:
    """The vectors of a column as an array."""
    lengths = column.value_lengths()
    if not column.null_count and (lengths.to_numpy() == dim).all():
        vectors: Vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
        with np.errstate(over="ignore"):
            # Not the other way round: what is not a number is near nothing.
            if (np.abs(np.linalg.norm(vectors, axis=1) - 1) < _UNIT).all():
                return vectors
    raise ExportError(
        f"{file} is damaged: not every vector is {dim} numbers of length 1; remove it and run recserve catalogue "
        "encode again"
    )


def _opened(file: Path) -> pq.ParquetFile:
    return pq.ParquetFile(file, page_checksum_verification=True)


def _shown(field_weights: Mapping[str, float]) -> str:
    return msgspec.json.encode(dict(field_weights), order="sorted").decode()
