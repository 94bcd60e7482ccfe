"""Bulk encoding: Parquet with items -> Parquet with their vectors, in pieces that are each done once.

A piece is a row group of an input file. Its output is a file under a name that only depends on it, written aside and
renamed. So a killed job goes on where it stopped, and a piece that is done twice gives the same file.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recserve_export.catalogue.mapping import FieldMapping
from recserve_export.catalogue.rows import RowConverter
from recserve_export.errors import ExportError
from recserve_export.tabular.rows import RowError
from recserve_server_ext.common.files import LOCK, exclusive, fsync_path, write_file
from recserve_server_ext.encoder.item_vectors import MADE_FROM_BYTES, PairCollector, encode_items, made_from
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder

JOB = "job.json"
#: Schema of the output. Lists of any length: those of a fixed size do not come back where some are missing.
SCHEMA: Final = pa.schema(
    {
        "id": pa.large_string(),
        "vector": pa.list_(pa.float32()),
        "error": pa.large_string(),
        "made_from": pa.binary(MADE_FROM_BYTES),
    }
)
#: After a dot and the name of the output: a file that is being written.
_ASIDE = ".{}.tmp"
#: Rows encoded at a time: memory does not grow with the size of a row group.
_ROWS = 2048


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an output folder was made with: content of `job.json`.

    Attributes:
        encoder: Runtime fingerprint.
        mapping: How rows become items, with the field weights.
        dim: Length of a vector.
        format: Number of the output format.
    """

    encoder: str
    mapping: FieldMapping
    dim: int
    format: Literal[2] = 2


class Piece(msgspec.Struct, frozen=True):
    """A row group of an input file.

    Attributes:
        file: Path of the file.
        group: Number of the row group.
        rows: Number of rows.
        output: File that its vectors go to.
    """

    file: str
    group: int
    rows: int
    output: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a piece.

    Attributes:
        rows: Rows that were written.
        refused: Rows among them without a vector.
    """

    rows: int
    refused: int


class PieceEncoder:
    """Encodes pieces; one for each process."""

    def __init__(self, encoder: Path, job: Job, threads: int | None = None) -> None:
        """
        Args:
            encoder: Encoder folder.
            job: From `prepare`.
            threads: Threads of the encoder; `None` takes the usable cores.
        """
        self._encoder = TextEncoder(encoder, threads=threads, verify=False)
        self._job = job
        self._convert = RowConverter(job.mapping)
        self._weights = job.mapping.field_weights

    def __call__(self, piece: Piece) -> Outcome:
        """Encode a piece, unless its output is there already.

        Raises:
            ExportError: The input cannot be read, or the output cannot be written, or read where it is there already.
        """
        output = Path(piece.output)
        if output.is_file():
            return _outcome(output)
        aside = output.with_name(f".{output.name}" + _ASIDE.format(uuid.uuid4().hex))
        try:
            with pq.ParquetWriter(aside, SCHEMA, write_page_checksum=True) as writer:
                for batch in pq.ParquetFile(piece.file).iter_batches(
                    _ROWS, row_groups=[piece.group], columns=list(self._job.mapping.columns)
                ):
                    writer.write_table(self._table(batch.to_pylist()))
            fsync_path(aside)
            try:
                aside.rename(output)
            except FileNotFoundError:
                if not output.is_file():  # else another process was faster, and removed what it no longer needs
                    raise
            fsync_path(output.parent)
        except (OSError, pa.ArrowException) as error:
            raise ExportError(f"row group {piece.group} of {piece.file} cannot be encoded: {error}") from error
        finally:
            aside.unlink(missing_ok=True)
        return _outcome(output)

    def _table(self, rows: list[dict[str, Any]]) -> pa.Table:
        """A row for each row: its id, its vector and what that was made from, or why there is none."""
        collector = PairCollector(self._weights)
        ids: list[str | None] = []
        errors: list[str | None] = []
        digests: list[bytes | None] = [None] * len(rows)
        encoded: list[int] = []
        for number, row in enumerate(rows):
            try:
                item = self._convert(row)
                collector.add(item.texts)
            except RowError as error:
                ids.append(error.item_id)
                errors.append(str(error))
            else:
                ids.append(item.id)
                errors.append(None)
                digests[number] = made_from(item.texts, self._weights)
                encoded.append(number)
        vectors = np.zeros((len(rows), self._job.dim), np.float32)
        if encoded:
            vectors[encoded], cancelled = encode_items(collector, self._encoder.encode)
            for number in np.array(encoded)[cancelled].tolist():
                errors[number], digests[number] = "the weighted vectors of its texts cancel out", None
        missing = np.array([error is not None for error in errors])
        offsets = np.concatenate([[0], np.cumsum(~missing * self._job.dim)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(
            pa.array(offsets), pa.array(vectors[~missing].reshape(-1)), mask=pa.array(missing)
        )
        made = pa.array(digests, SCHEMA.field("made_from").type)
        columns = [pa.array(ids, pa.large_string()), lists, pa.array(errors, pa.large_string()), made]
        return pa.table(columns, SCHEMA)


def prepare(source: Path, output: Path, encoder: Path, mapping: FieldMapping) -> tuple[Job, list[Piece]]:
    """Look at the input, and make or check the output folder.

    Args:
        source: A Parquet file, or a folder of them.
        output: Output folder of this job, or an empty folder.
        encoder: Encoder folder.
        mapping: A validated mapping.

    Raises:
        ExportError: The input is not Parquet or lacks a column, or the folder holds the output of another job.
    """
    manifest = read_manifest(encoder)
    job = Job(manifest.runtime_fingerprint, mapping, manifest.dim)
    pieces = list(_pieces(source, output, mapping))
    if not pieces:
        raise ExportError(f"{source} has no Parquet file with a row")
    output.mkdir(parents=True, exist_ok=True)
    with exclusive(output / LOCK):
        _claim(output, job)
    return job, pieces


def run_locally(encoder: Path, job: Job, pieces: Iterable[Piece], done: Callable[[Outcome], None]) -> None:
    """Encode one piece after the other in this process, with all cores."""
    encode = PieceEncoder(encoder, job)
    for piece in pieces:
        done(encode(piece))


def read_job(output: Path) -> Job:
    """What an output folder was made with.

    Raises:
        ExportError: It is no output of this command, or of another version of it.
    """
    path = output / JOB
    try:
        return msgspec.json.decode(path.read_bytes(), type=Job)
    except FileNotFoundError as error:
        raise ExportError(f"{output} has no {JOB}: name an output of recserve catalogue encode") from error
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ExportError(f"{path} cannot be read: {error}; encode anew into an empty folder") from error


def remove_leftovers(pieces: Sequence[Piece]) -> None:
    """Remove what killed processes left beside the output of pieces that are all there."""
    done = {Path(piece.output) for piece in pieces}
    for folder in {output.parent for output in done}:
        for left in folder.glob(".*.tmp"):
            if left.with_name(left.name[1 : -len(_ASIDE.format("0" * 32))]) in done:
                left.unlink(missing_ok=True)


def _claim(output: Path, job: Job) -> None:
    path = output / JOB
    if path.is_file():
        if read_job(output) != job:
            raise ExportError(f"{output} holds vectors of another encoder or mapping; name an empty folder")
    elif any(not entry.name.startswith(".") for entry in output.iterdir()):
        raise ExportError(f"{output} is not empty and no output of this command; name an empty folder")
    else:
        write_file(path, msgspec.json.encode(job))


def _pieces(source: Path, output: Path, mapping: FieldMapping) -> Iterator[Piece]:
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    for file in files:
        try:
            opened = pq.ParquetFile(file)
        except (OSError, pa.ArrowException) as error:
            raise ExportError(f"{file} cannot be read as Parquet: {error}") from error
        mapping.check_columns(opened.schema_arrow.names)
        name = file.relative_to(source).as_posix() if source.is_dir() else file.name
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        for group in range(opened.num_row_groups):
            rows = opened.metadata.row_group(group).num_rows
            if rows:
                place = output / f"{file.stem}-{key}-{group:05d}.parquet"
                yield Piece(str(file.resolve()), group, rows, str(place.resolve()))


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn errors of reading a file of the output into `ExportError`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"{file} cannot be read: {reason}; remove it and run recserve catalogue encode again"
        ) from error


def _outcome(output: Path) -> Outcome:
    with readable(output):
        errors = pq.read_table(output, columns=["error"])["error"]
    return Outcome(len(errors), len(errors) - errors.null_count)
