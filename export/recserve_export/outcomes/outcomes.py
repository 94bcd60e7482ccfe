"""Outcomes of logged answers: interactions that name an answer, joined with the item that was recommended in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_export.errors import ExportError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.counts.clicks import CLICKS, SKEW_S, WINDOW_S
from recserve_server_ext.interactions.tables import answers, interactions

#: Most outcomes of one report or export, which are held in memory.
MOST_OUTCOMES: Final = 5_000_000
_CHUNK: Final = 1000


class OutcomeRules(msgspec.Struct, frozen=True):
    """What counts as an outcome.

    Attributes:
        clicks: Types of interactions that are clicks.
        conversions: Types that are conversions; a type may be both.
        window_s: How long after its answer an interaction counts.
        start_us: Answers from this moment on count, in microseconds since 1970.
        end_us: Answers before this moment count.
    """

    clicks: frozenset[str] = CLICKS
    conversions: frozenset[str] = frozenset({"purchase", "like"})
    window_s: float = WINDOW_S
    start_us: int = 0
    end_us: int = 2**62


class Named(msgspec.Struct):
    """Interactions that name a recommendation, by what became of them.

    Attributes:
        joined: The first click or conversion of an item of an answer; these count.
        repeated: A further click or conversion of the same item of the same answer.
        late: After the window.
        early: Longer before the answer than clocks may differ.
        unknown: Naming no answer of the log: made up, not drawn for the log, lost, or past its limits.
        not_in_slate: With an item that the answer does not have.
        other_user: By another user than the one who was answered.
        no_item: With a text.
        other_type: Neither a click nor a conversion.
        forced: Naming an answer whose variants the request chose.
    """

    joined: int = 0
    repeated: int = 0
    late: int = 0
    early: int = 0
    unknown: int = 0
    not_in_slate: int = 0
    other_user: int = 0
    no_item: int = 0
    other_type: int = 0
    forced: int = 0


class Answered(NamedTuple):
    """The answer that an outcome belongs to.

    Attributes:
        number: Number of the answer in the log.
        user: Number of the user; `None` where the request named no user.
        strategy: Strategy of the answer.
        variants: JSON, as in the log.
        time_us: Moment of the answer, in microseconds since 1970.
    """

    number: int
    user: int | None
    strategy: str
    variants: str
    time_us: int


class Outcome(msgspec.Struct):
    """What came of one item of an answer."""

    clicked: bool = False
    converted: bool = False


class Outcomes(NamedTuple):
    """All outcomes.

    Attributes:
        named: What became of the interactions that name a recommendation.
        of: Outcomes by answer and by position from 0.
    """

    named: Named
    of: dict[Answered, dict[int, Outcome]]


def join(connection: sa.Connection, rules: OutcomeRules) -> Outcomes:
    """Join interactions with the answers they name, from one state of the interaction store.

    Each item of an answer is clicked at most once, and converted at most once.

    Raises:
        ExportError: There are more than `MOST_OUTCOMES`.
    """
    named = Named()
    of: dict[Answered, dict[int, Outcome]] = {}
    for row in _named(connection):
        if row.number is not None and not rules.start_us <= row.answered_us < rules.end_us:
            continue
        fault, place = _fault(row, rules)
        if fault:
            setattr(named, fault, getattr(named, fault) + 1)
            continue
        answered = Answered(row.number, row.answered, row.strategy, row.variants, row.answered_us)
        outcome = of.setdefault(answered, {}).setdefault(place, Outcome())
        clicked, converted = row.type in rules.clicks, row.type in rules.conversions
        is_new = (clicked and not outcome.clicked) or (converted and not outcome.converted)
        outcome.clicked |= clicked
        outcome.converted |= converted
        named.joined += is_new
        named.repeated += not is_new
        if named.joined > MOST_OUTCOMES:
            raise ExportError(f"more than {MOST_OUTCOMES:,} outcomes; choose a shorter time with --from and --to")
    return Outcomes(named, of)


def in_range(rules: OutcomeRules) -> sa.ColumnElement[bool]:
    """Whether an answer counts: in time, and with variants that the request did not choose."""
    return sa.and_(answers.c.time_us >= rules.start_us, answers.c.time_us < rules.end_us, sa.not_(answers.c.forced))


def _named(connection: sa.Connection) -> Iterator[Any]:
    """Interactions that name a recommendation in the order they came, each with the answer, if there is one."""
    query = (
        sa.select(
            interactions.c.item,
            interactions.c.type,
            interactions.c.time_us,
            interactions.c.user,
            answers.c.number,
            answers.c.user.label("answered"),
            answers.c.time_us.label("answered_us"),
            answers.c.strategy,
            answers.c.variants,
            answers.c.forced,
            answers.c.recommended,
        )
        .outerjoin_from(interactions, answers, answers.c.recommendation_id == interactions.c.recommendation_id)
        .where(interactions.c.recommendation_id.is_not(None))
        .order_by(interactions.c.number)
    )
    return iter(connection.execution_options(yield_per=_CHUNK).execute(query))


def _fault(row: Any, rules: OutcomeRules) -> tuple[str, int]:
    """The counter of `Named` for an interaction that does not count, else an empty string; and its item's position."""
    if row.number is None:
        return "unknown", -1
    if row.answered is not None and row.answered != row.user:
        return "other_user", -1
    if row.item is None:
        return "no_item", -1
    items: list[str] = msgspec.json.decode(row.recommended)
    if row.item not in items:
        return "not_in_slate", -1
    place = items.index(row.item)
    if row.forced:
        return "forced", place
    if row.type not in rules.clicks and row.type not in rules.conversions:
        return "other_type", place
    after_s = (row.time_us - row.answered_us) / MICROSECONDS
    if after_s < -SKEW_S:
        return "early", place
    return ("late" if after_s > rules.window_s else ""), place
