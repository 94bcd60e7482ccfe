"""Report of outcomes: what was recommended, what came of it, and what experiments say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_export.outcomes.experiments import ExperimentReport, experiment_reports
from recserve_export.outcomes.outcomes import Named, OutcomeRules, Outcomes, in_range, join
from recserve_export.outcomes.proportions import wilson
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.tables import answers
from recserve_server_ext.storage.database import Database


class Rate(msgspec.Struct, frozen=True):
    """A share of impressions, with its Wilson interval."""

    count: int
    rate: float | None
    low: float
    high: float


class Group(msgspec.Struct, frozen=True):
    """Impressions with something in common.

    Attributes:
        name: What they have in common.
        answers: Number of answers.
        impressions: Number of recommended items.
        clicks: Impressions that were clicked.
        conversions: Impressions that were converted.
    """

    name: str
    answers: int
    impressions: int
    clicks: Rate
    conversions: Rate


class OutcomeReport(msgspec.Struct, frozen=True):
    """The report of outcomes.

    Attributes:
        answers: Answers that count.
        forced: Answers with variants that the request chose, which do not count.
        open: Answers younger than the window, whose outcomes may still come.
        window_s: How long after its answer an interaction counts.
        lift: Relative lift that power is stated for.
        named: What became of the interactions that name a recommendation.
        strategies: Impressions by strategy.
        positions: Impressions by position, from 1.
        variants: Impressions by experiment and variant.
        experiments: Each version of each experiment.
    """

    answers: int
    forced: int
    open: int
    window_s: float
    lift: float
    named: Named
    strategies: list[Group]
    positions: list[Group]
    variants: list[Group]
    experiments: list[ExperimentReport]


def report(database: Database, rules: OutcomeRules, *, now_s: float, lift: float) -> OutcomeReport:
    """Make the report as of `now_s` (seconds since 1970), from one state of the interaction store.

    Raises:
        ExportError: There are too many outcomes.
        InteractionError: The store cannot be read.
    """
    in_time = (answers.c.time_us >= rules.start_us, answers.c.time_us < rules.end_us)
    open_since_us = round((now_s - rules.window_s) * MICROSECONDS)
    with database.reading() as connection:
        outcomes = join(connection, rules)
        columns = (answers.c.strategy, answers.c.user.is_not(None), answers.c.variants, answers.c.size)
        query = sa.select(*columns, sa.func.count()).where(in_range(rules)).group_by(*columns)
        kinds = [
            _Kind(_strategy_of(strategy, has_user=bool(has_user)), *rest)
            for strategy, has_user, *rest in connection.execute(query)
        ]
        number = sa.select(sa.func.count()).select_from(answers)
        return OutcomeReport(
            answers=sum(kind.answers for kind in kinds),
            forced=connection.execute(number.where(*in_time, answers.c.forced)).scalar_one(),
            open=connection.execute(number.where(in_range(rules), answers.c.time_us > open_since_us)).scalar_one(),
            window_s=rules.window_s,
            lift=lift,
            named=outcomes.named,
            strategies=_by_name(kinds, outcomes, lambda strategy, _: [strategy]),
            positions=_by_position(kinds, outcomes),
            variants=_by_name(kinds, outcomes, lambda _, variants: _labels(variants)),
            experiments=experiment_reports(connection, rules, outcomes, lift),
        )


class _Kind(NamedTuple):
    """Answers that agree in everything that groups are made by.

    Attributes:
        strategy: From `_strategy_of`.
        variants: JSON, as in the log.
        size: Items of each answer.
        answers: Number of answers.
    """

    strategy: str
    variants: str
    size: int
    answers: int


def _by_name(kinds: Sequence[_Kind], outcomes: Outcomes, names: Callable[[str, str], Sequence[str]]) -> list[Group]:
    """Groups by what `names` makes of strategy and variants, in alphabetical order; an answer may be in several."""
    answered, impressions, clicks, conversions = (Counter[str]() for _ in range(4))
    for kind in kinds:
        for name in names(kind.strategy, kind.variants):
            answered[name] += kind.answers
            impressions[name] += kind.answers * kind.size
    for answer, of in outcomes.of.items():
        for name in names(_strategy_of(answer.strategy, has_user=answer.user is not None), answer.variants):
            clicks[name] += sum(outcome.clicked for outcome in of.values())
            conversions[name] += sum(outcome.converted for outcome in of.values())
    return [
        _group(name, answered[name], impressions[name], clicks[name], conversions[name]) for name in sorted(answered)
    ]


def _by_position(kinds: Sequence[_Kind], outcomes: Outcomes) -> list[Group]:
    """Groups by position, from 1: an answer with n items has an impression at each of the first n."""
    clicks, conversions = Counter[int](), Counter[int]()
    for of in outcomes.of.values():
        for place, outcome in of.items():
            clicks[place] += outcome.clicked
            conversions[place] += outcome.converted
    longest = max((kind.size for kind in kinds), default=0)
    shown = [sum(kind.answers for kind in kinds if kind.size > place) for place in range(longest)]
    return [
        _group(str(place + 1), count, count, clicks[place], conversions[place]) for place, count in enumerate(shown)
    ]


def _strategy_of(strategy: str, *, has_user: bool) -> str:
    """The strategy, with a note for answers without a user: these have no variants, and come of other callers."""
    return strategy if has_user else f"{strategy}, no user"


def _labels(variants: str) -> list[str]:
    """`experiment@version variant` of each experiment of an answer."""
    found: dict[str, str] = msgspec.json.decode(variants)
    return [f"{key} {variant}" for key, variant in found.items()]


def _group(name: str, answers: int, impressions: int, clicks: int, conversions: int) -> Group:
    return Group(name, answers, impressions, _rate(clicks, impressions), _rate(conversions, impressions))


def _rate(count: int, impressions: int) -> Rate:
    return Rate(count, count / impressions if impressions else None, *wilson(count, impressions))
