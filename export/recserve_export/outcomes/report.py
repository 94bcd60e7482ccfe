"""Report of outcomes: what was recommended, what came of it, and what experiments say."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from recserve_export.outcomes.experiments import ExperimentReport, experiment_reports
from recserve_export.outcomes.groups import Group, Kind, by_name, by_position, labels, strategy_of
from recserve_export.outcomes.outcomes import Named, OutcomeRules, in_range, join
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.interactions.tables import answers
from recserve_server_ext.storage.database import Database


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
    """Make the report, from one state of the interaction store.

    Args:
        database: Database of the interaction store.
        rules: What counts as an outcome.
        now_s: Seconds since 1970.
        lift: Relative lift over the first variant that power is stated for.

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
            Kind(strategy_of(strategy, has_user=bool(has_user)), *rest)
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
            strategies=by_name(kinds, outcomes, lambda strategy, _: [strategy]),
            positions=by_position(kinds, outcomes),
            variants=by_name(kinds, outcomes, lambda _, variants: labels(variants)),
            experiments=experiment_reports(connection, rules, outcomes, lift),
        )
