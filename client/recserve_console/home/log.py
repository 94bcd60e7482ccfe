"""What the interaction store of a home tells: outcomes of recommendations, the newest answers, the log in numbers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_export.interactions.import_log import ImportedLog, read_imports
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.store import InteractionStore, StoreStats
from recserve_server_ext.interactions.tables import answers, interactions
from recserve_server_ext.services import refusals

if TYPE_CHECKING:
    from recserve_export.outcomes.report import OutcomeReport

_DAY_S: Final = 86_400
_DAY_US: Final = _DAY_S * MICROSECONDS
_WEEK_DAYS: Final = 7


class Answer(NamedTuple):
    """A logged answer, without its user.

    Attributes:
        id: Id of the recommendation.
        time_s: Moment in seconds since 1970.
        has_user: Whether it was made for a user by id.
        strategy: Name of the strategy.
        items: Item ids, best first.
        variants: Variants of experiments, by experiment and version.
        revision: Revision of the catalogue.
    """

    id: str
    time_s: float
    has_user: bool
    strategy: str
    items: list[str]
    variants: dict[str, str]
    revision: int


class LogNumbers(NamedTuple):
    """The log in numbers.

    Attributes:
        stats: What the store counts.
        imports: The last imports, the newest first.
        days: Interactions by day (days since 1970), oldest first.
        week: Interactions of the last seven days of the log by type, and of the seven days before.
        most_active: Largest numbers of interactions of one user, and how many users have as many.
        per_user: Users by their number of interactions, in powers of two: least number and count.
    """

    stats: StoreStats
    imports: list[ImportedLog]
    days: list[tuple[int, int]]
    week: dict[str, tuple[int, int]]
    most_active: list[tuple[int, int]]
    per_user: list[tuple[int, int]]


def _store(home: Path) -> InteractionStore:
    return InteractionStore(Workspace(home).interactions)


def has_log(home: Path) -> bool:
    """Whether the home has an interaction store of its own."""
    return Workspace(home).interactions.is_file()


def outcome_report(home: Path, lift: float = 0.1) -> OutcomeReport:
    """The report of outcomes by the default rules; errors as of `recserve outcomes report`."""
    # Here, since statsmodels takes seconds to import.
    from recserve_export.outcomes.outcomes import OutcomeRules
    from recserve_export.outcomes.report import report

    with _store(home) as store:
        return report(store.database, OutcomeRules(), now_s=time.time(), lift=lift)


def newest_answers(home: Path, count: int) -> list[Answer]:
    """The newest logged answers, the newest first; raises InteractionError where the store cannot be read."""
    columns = answers.c
    query = (
        sa.select(
            columns.recommendation_id,
            columns.time_us,
            columns.user.is_not(None),
            columns.strategy,
            columns.recommended,
            columns.variants,
            columns.revision,
        )
        .order_by(columns.number.desc())
        .limit(count)
    )
    with _store(home) as store, store.database.reading() as connection:
        return [
            Answer(
                identity,
                time_us / MICROSECONDS,
                bool(has_user),
                strategy,
                msgspec.json.decode(items, type=list[str]),
                msgspec.json.decode(variants, type=dict[str, str]),
                revision,
            )
            for identity, time_us, has_user, strategy, items, variants, revision in connection.execute(query)
        ]


def newest_refusals(home: Path, count: int) -> list[refusals.Refusal]:
    """The newest refusals of the servers of a home since their start, the newest first; raises OSError, ValueError."""
    return refusals.newest_refusals(Workspace(home).run, count)


def log_numbers(home: Path) -> LogNumbers:
    """Count the log; raises InteractionError or ExportError where the store or the file of imports cannot be read."""
    with _store(home) as store, store.database.reading() as connection:
        stats = store.stats()
        day = interactions.c.time_us // _DAY_US
        by_day = connection.execute(sa.select(day, sa.func.count()).group_by(day).order_by(day))
        days = [(int(number), int(count)) for number, count in by_day]
        imports = read_imports(Workspace(home).imports)
        return LogNumbers(stats, imports, days, _weeks(connection, days), *_activity(connection))


def _weeks(connection: sa.Connection, days: list[tuple[int, int]]) -> dict[str, tuple[int, int]]:
    if not days:
        return {}
    end = (days[-1][0] + 1) * _DAY_US
    counted: list[dict[str, Any]] = []
    for back in (1, 2):
        start = end - back * _WEEK_DAYS * _DAY_US
        within = (interactions.c.time_us >= start, interactions.c.time_us < start + _WEEK_DAYS * _DAY_US)
        query = sa.select(interactions.c.type, sa.func.count()).where(*within).group_by(interactions.c.type)
        counted.append({str(kind): int(count) for kind, count in connection.execute(query)})
    last, before = counted
    return {kind: (last.get(kind, 0), before.get(kind, 0)) for kind in sorted({*last, *before})}


def _activity(connection: sa.Connection) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The most active users, and the histogram of all."""
    each = sa.select(sa.func.count().label("own")).select_from(interactions).group_by(interactions.c.user).subquery()
    query = sa.select(each.c.own, sa.func.count()).group_by(each.c.own).order_by(each.c.own.desc())
    found = [(int(own), int(users)) for own, users in connection.execute(query)]
    powers: dict[int, int] = {}
    for own, users in found:
        least = 1 << (own.bit_length() - 1)
        powers[least] = powers.get(least, 0) + users
    return found[:5], sorted(powers.items())
