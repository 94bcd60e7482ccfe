"""A training set of logged answers: a row for every recommended item, with its propensity and what came of it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from recserve_export.errors import ExportError
from recserve_export.outcomes.outcomes import Answered, Outcome, OutcomeRules, in_range, join
from recserve_server_ext.common.files import fsync_path
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.tables import answers, users
from recserve_server_ext.storage.database import Database

OutcomeFormat = Literal["jsonl", "parquet"]
_CHUNK: Final = 1000
_ROWS: Final = 10_000


class Impression(msgspec.Struct, frozen=True):
    """A recommended item.

    Attributes:
        recommendation_id: Of the answer.
        user: Pseudonym; none = the request named no user.
        item: Item id.
        position: From 1.
        propensity: Probability that the item was there, given the request; 1 where nothing is drawn.
        sampling: Part of such answers that was logged.
        clicked: Whether it was clicked within the window.
        converted: Whether it was converted within the window.
        timestamp: Of the answer, in seconds since 1970.
        strategy: Of the answer.
        variants: Variant by experiment and version, as JSON.
    """

    recommendation_id: str
    user: str | None
    item: str
    position: int
    propensity: float
    sampling: float
    clicked: bool
    converted: bool
    timestamp: float
    strategy: str
    variants: str


def export_outcomes(database: Database, path: Path, rules: OutcomeRules, file_format: OutcomeFormat) -> int:
    """Write a training set, answers in the order they were logged; the file is there whole or not at all.

    Args:
        database: Of the interaction store.
        path: The file; it is replaced.
        rules: What counts.
        file_format: Of the file.

    Returns:
        Rows written.

    Raises:
        ExportError: The file cannot be written, or there are too many outcomes.
        InteractionError: The store cannot be read.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    write = {"jsonl": _jsonl, "parquet": _parquet}[file_format]
    try:
        with database.reading() as connection:
            count = write(aside, _impressions(connection, rules))
        fsync_path(aside)
        os.replace(aside, path)
        fsync_path(path.parent)
    except OSError as error:
        raise ExportError(f"{path} cannot be written: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
    return count


def _impressions(connection: sa.Connection, rules: OutcomeRules) -> Iterator[Impression]:
    of = join(connection, rules).of
    nothing: dict[int, Outcome] = {}
    none = Outcome()
    query = sa.select(answers, users.c.pseudonym).outerjoin_from(answers, users, answers.c.user == users.c.number)
    query = query.where(in_range(rules)).order_by(answers.c.number)
    for row in connection.execution_options(yield_per=_CHUNK).execute(query):
        found = of.get(Answered(row.number, row.user, row.strategy, row.variants), nothing)
        items: list[str] = msgspec.json.decode(row.recommended)
        propensities = [1.0] * len(items) if row.propensities is None else msgspec.json.decode(row.propensities)
        for place, (item, propensity) in enumerate(zip(items, propensities, strict=True)):
            outcome = found.get(place, none)
            yield Impression(
                recommendation_id=row.recommendation_id,
                user=row.pseudonym,
                item=item,
                position=place + 1,
                propensity=propensity,
                sampling=row.sampling,
                clicked=outcome.clicked,
                converted=outcome.converted,
                timestamp=row.time_us / MICROSECONDS,
                strategy=row.strategy,
                variants=row.variants,
            )


def _jsonl(path: Path, rows: Iterable[Impression]) -> int:
    count = 0
    with path.open("wb") as file:
        for count, row in enumerate(rows, start=1):  # noqa: B007  # the last one is the number of rows
            file.write(msgspec.json.encode(row) + b"\n")
    return count


def _parquet(path: Path, rows: Iterable[Impression]) -> int:
    import pyarrow as pa
    import pyarrow.parquet

    types: dict[type, Any] = {str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_()}
    named = msgspec.structs.fields(Impression)
    # The user is the only field that may be missing.
    schema = pa.schema([pa.field(field.name, types.get(field.type, pa.string())) for field in named])
    count = 0
    rest = iter(rows)
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        while chunk := [msgspec.structs.asdict(row) for row in islice(rest, _ROWS)]:
            writer.write_table(pa.Table.from_pylist(chunk, schema=schema))
            count += len(chunk)
    return count


def open_format(path: Path, chosen: str) -> OutcomeFormat:
    """The format of a file, by the ending of its name unless one is chosen.

    Raises:
        ExportError: The ending tells none.
    """
    if chosen in ("jsonl", "parquet"):
        return "jsonl" if chosen == "jsonl" else "parquet"
    endings: dict[str, OutcomeFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    if path.suffix not in endings:
        raise ExportError(f"the ending of {path.name} tells no format; give --format jsonl or --format parquet")
    return endings[path.suffix]
