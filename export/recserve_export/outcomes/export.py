"""A training set of logged answers: a row for every recommended item, with its propensity and what came of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import sqlalchemy as sa

from recserve_export.errors import ExportError
from recserve_export.files import replacing, write_json_lines, write_parquet
from recserve_export.outcomes.outcomes import Answered, Outcome, OutcomeRules, in_range, join
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.tables import answers, users
from recserve_server_ext.storage.database import Database

OutcomeFormat = Literal["jsonl", "parquet"]
_CHUNK: Final = 1000


class Impression(msgspec.Struct, frozen=True):
    """A recommended item.

    Attributes:
        recommendation_id: Id of the answer.
        user: Pseudonym; `None` where the request named no user.
        item: Item id.
        position: Position in the answer, from 1.
        propensity: Probability that the item was there, given the request; 1 where nothing is drawn.
        sampling: Share of such answers that was logged.
        clicked: Whether it was clicked within the window.
        converted: Whether it was converted within the window.
        timestamp: Time of the answer, in seconds since 1970.
        strategy: Strategy of the answer.
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

    Returns the number of rows.

    Raises:
        ExportError: The file cannot be written, or there are too many outcomes.
        InteractionError: The store cannot be read.
    """
    with replacing(path) as aside, database.reading() as connection:
        rows = _impressions(connection, rules)
        if file_format == "jsonl":
            return write_json_lines(aside, rows)
        return write_parquet(aside, map(msgspec.structs.asdict, rows), _schema())


def _impressions(connection: sa.Connection, rules: OutcomeRules) -> Iterator[Impression]:
    of = join(connection, rules).of
    nothing: dict[int, Outcome] = {}
    none = Outcome()
    query = sa.select(answers, users.c.pseudonym).outerjoin_from(answers, users, answers.c.user == users.c.number)
    query = query.where(in_range(rules)).order_by(answers.c.number)
    for row in connection.execution_options(yield_per=_CHUNK).execute(query):
        found = of.get(Answered(row.number, row.user, row.strategy, row.variants, row.time_us), nothing)
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


def _schema() -> Any:
    import pyarrow as pa

    types: dict[type, Any] = {str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_()}
    # The user is the only field that may be missing.
    fields = msgspec.structs.fields(Impression)
    return pa.schema([pa.field(field.name, types.get(field.type, pa.string())) for field in fields])


def format_of(path: Path) -> OutcomeFormat:
    """The format that the ending of a file's name tells.

    Raises:
        ExportError: It tells none.
    """
    endings: dict[str, OutcomeFormat] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    if path.suffix not in endings:
        raise ExportError(f"the ending of {path.name} tells no format; give --format jsonl or --format parquet")
    return endings[path.suffix]
