"""Report of outcomes: what was recommended, what came of it, and what experiments say."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import sqlalchemy as sa

from recserve_export.outcomes.experiments import ExperimentReport, experiment_reports
from recserve_export.outcomes.outcomes import Answered, Named, Outcome, OutcomeRules, in_range, join
from recserve_export.outcomes.proportions import wilson
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.tables import answers
from recserve_server_ext.storage.database import Database

_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
#: Lengths of a period, and how many periods a report has at most, but for the longest.
_PERIODS_S: Final = (_HOUR_S, _DAY_S, 7 * _DAY_S, 28 * _DAY_S)
_MOST_PERIODS: Final = 60
_OutcomesOf = dict[Answered, dict[int, Outcome]]


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


class Period(msgspec.Struct, frozen=True):
    """Impressions of the answers of a period.

    Attributes:
        start_s: Its beginning, in seconds since 1970; it lasts `period_s` of the report.
        strategies: Impressions by strategy.
        positions: Impressions by position, from 1.
        variants: Impressions by experiment and variant.
    """

    start_s: int
    strategies: list[Group]
    positions: list[Group]
    variants: list[Group]


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
        period_s: Length of a period: an hour, a day, a week or four weeks, by the time between first and last answer.
        periods: The same over time, oldest first; periods without an answer are left out.
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
    period_s: int
    periods: list[Period]
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
        period_us = _period_us(connection, rules)
        period = answers.c.time_us // sa.literal(period_us, literal_execute=True)
        columns = (period, answers.c.strategy, answers.c.user.is_not(None), answers.c.variants, answers.c.size)
        query = sa.select(*columns, sa.func.count()).where(in_range(rules)).group_by(*columns)
        kinds = [
            _Kind(int(period), _strategy_of(strategy, has_user=bool(has_user)), *rest)
            for period, strategy, has_user, *rest in connection.execute(query)
        ]
        number = sa.select(sa.func.count()).select_from(answers)
        return OutcomeReport(
            answers=sum(kind.answers for kind in kinds),
            forced=connection.execute(number.where(*in_time, answers.c.forced)).scalar_one(),
            open=connection.execute(number.where(in_range(rules), answers.c.time_us > open_since_us)).scalar_one(),
            window_s=rules.window_s,
            lift=lift,
            named=outcomes.named,
            strategies=_by_strategy(kinds, outcomes.of),
            positions=_by_position(kinds, outcomes.of),
            variants=_by_variant(kinds, outcomes.of),
            period_s=period_us // MICROSECONDS,
            periods=_periods(kinds, outcomes.of, period_us),
            experiments=experiment_reports(connection, rules, outcomes, lift),
        )


class _Kind(NamedTuple):
    """Answers that agree in everything that groups are made by.

    Attributes:
        period: Number of the period.
        strategy: From `_strategy_of`.
        variants: JSON, as in the log.
        size: Items of each answer.
        answers: Number of answers.
    """

    period: int
    strategy: str
    variants: str
    size: int
    answers: int


def _period_us(connection: sa.Connection, rules: OutcomeRules) -> int:
    """The shortest period of which not too many lie between the first and the last answer."""
    query = sa.select(sa.func.min(answers.c.time_us), sa.func.max(answers.c.time_us)).where(in_range(rules))
    first, last = connection.execute(query).one()
    span_us = 0 if first is None else last - first
    fits = (period_s for period_s in _PERIODS_S if span_us <= _MOST_PERIODS * period_s * MICROSECONDS)
    return next(fits, _PERIODS_S[-1]) * MICROSECONDS


def _periods(kinds: Sequence[_Kind], of: _OutcomesOf, period_us: int) -> list[Period]:
    kinds_in: defaultdict[int, list[_Kind]] = defaultdict(list)
    of_in: defaultdict[int, _OutcomesOf] = defaultdict(dict)
    for kind in kinds:
        kinds_in[kind.period].append(kind)
    for answer, found in of.items():
        of_in[answer.time_us // period_us][answer] = found
    return [
        Period(
            period * period_us // MICROSECONDS,
            _by_strategy(kinds_in[period], of_in[period]),
            _by_position(kinds_in[period], of_in[period]),
            _by_variant(kinds_in[period], of_in[period]),
        )
        for period in sorted(kinds_in)
    ]


def _by_strategy(kinds: Sequence[_Kind], of: _OutcomesOf) -> list[Group]:
    return _by_name(kinds, of, lambda strategy, _: [strategy])


def _by_variant(kinds: Sequence[_Kind], of: _OutcomesOf) -> list[Group]:
    return _by_name(kinds, of, lambda _, variants: _labels(variants))


def _by_name(kinds: Sequence[_Kind], of: _OutcomesOf, names: Callable[[str, str], Sequence[str]]) -> list[Group]:
    """Groups by what `names` makes of strategy and variants, in alphabetical order; an answer may be in several."""
    answered, impressions, clicks, conversions = (Counter[str]() for _ in range(4))
    for kind in kinds:
        for name in names(kind.strategy, kind.variants):
            answered[name] += kind.answers
            impressions[name] += kind.answers * kind.size
    for answer, found in of.items():
        for name in names(_strategy_of(answer.strategy, has_user=answer.user is not None), answer.variants):
            clicks[name] += sum(outcome.clicked for outcome in found.values())
            conversions[name] += sum(outcome.converted for outcome in found.values())
    return [
        _group(name, answered[name], impressions[name], clicks[name], conversions[name]) for name in sorted(answered)
    ]


def _by_position(kinds: Sequence[_Kind], of: _OutcomesOf) -> list[Group]:
    """Groups by position, from 1: an answer with n items has an impression at each of the first n."""
    clicks, conversions = Counter[int](), Counter[int]()
    for found in of.values():
        for place, outcome in found.items():
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
