"""Report of experiments: users and outcomes by variant, tests against the first variant, the split of users."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from recserve_export.outcomes.outcomes import OutcomeRules, Outcomes, in_range
from recserve_export.outcomes.proportions import (
    Difference,
    chi_square,
    detectable,
    power,
    ratio_difference,
    two_proportions,
)
from recserve_server_ext.interactions.tables import answers, experiments

#: Alarm of a sample ratio mismatch: chance would split the users like that less often.
SRM_ALPHA: Final = 0.001
#: Columns of a user's counts.
_IMPRESSIONS, _CLICKS, _CONVERSIONS = range(3)
#: By key (`experiment@version`), variant and user: impressions, clicks and conversions.
UserCounts = dict[str, dict[str, dict[int, list[int]]]]


class VariantUsers(msgspec.Struct, frozen=True):
    """One variant of an experiment, by user.

    Attributes:
        name: Name of the variant.
        weight: Weight as configured.
        users: Users who were answered.
        clicked: Users who clicked.
        converted: Users who converted.
        impressions: Recommended items.
        clicks: Recommended items that were clicked.
    """

    name: str
    weight: float
    users: int
    clicked: int
    converted: int
    impressions: int
    clicks: int


class Comparison(msgspec.Struct, frozen=True):
    """A variant against the first one; what cannot be computed is `None`.

    Attributes:
        variant: Name of the variant.
        measure: `users who clicked` or `users who converted` (two-proportion z-test), or `clicks per impression`
            (delta method over users).
        difference: Rate of the variant minus that of the first one.
        low: Lower bound of the difference's 95% interval.
        high: Upper bound of that interval.
        z: Statistic.
        p: Two-sided, times the number of variants compared with the first one (Bonferroni).
        power: Power of finding the relative lift asked for; `None` for clicks per impression.
        detectable: Least lift of the rate that is found with a power of 0.8; `None` for clicks per impression.
    """

    variant: str
    measure: str
    difference: float | None
    low: float | None
    high: float | None
    z: float | None
    p: float | None
    power: float | None = None
    detectable: float | None = None


class ExperimentReport(msgspec.Struct, frozen=True):
    """One version of an experiment.

    Attributes:
        name: Name of the experiment.
        version: Version of its variants.
        variants: The variants in the order they are configured.
        srm_p: p of the chi-square test that users are split by the weights.
        srm_alarm: Whether `srm_p` is below 0.001: something is wrong, and no comparison can be trusted.
        moved: Users who were answered with two variants; there must be none.
        comparisons: The other variants against the first one.
    """

    name: str
    version: str
    variants: list[VariantUsers]
    srm_p: float
    srm_alarm: bool
    moved: int
    comparisons: list[Comparison]


def experiment_reports(
    connection: sa.Connection, rules: OutcomeRules, outcomes: Outcomes, lift: float
) -> list[ExperimentReport]:
    """A report of each version of each experiment that has answers, from one state of the interaction store."""
    counts = _counts(connection, rules, outcomes)
    columns = (experiments.c.name, experiments.c.version, experiments.c.weights)
    served = connection.execute(sa.select(*columns).order_by(experiments.c.name, experiments.c.first_us))
    return [
        _experiment(name, version, msgspec.json.decode(weights), counts[f"{name}@{version}"], lift)
        for name, version, weights in served
        if f"{name}@{version}" in counts
    ]


def _counts(connection: sa.Connection, rules: OutcomeRules, outcomes: Outcomes) -> UserCounts:
    counts: UserCounts = defaultdict(lambda: defaultdict(lambda: defaultdict(lambda: [0, 0, 0])))
    # "{}" is no experiment.
    query = sa.select(answers.c.variants, answers.c.user, sa.func.sum(answers.c.size))
    query = query.where(in_range(rules), answers.c.user.is_not(None), answers.c.variants != "{}")
    for variants, user, size in connection.execute(query.group_by(answers.c.variants, answers.c.user)):
        for key, variant in msgspec.json.decode(variants).items():
            counts[key][variant][user][_IMPRESSIONS] += int(size)
    for answer, of in outcomes.of.items():
        if answer.user is None:
            continue
        for key, variant in msgspec.json.decode(answer.variants).items():
            user = counts[key][variant][answer.user]
            user[_CLICKS] += sum(outcome.clicked for outcome in of.values())
            user[_CONVERSIONS] += sum(outcome.converted for outcome in of.values())
    return counts


def _experiment(
    name: str, version: str, weights: Mapping[str, float], counts: dict[str, dict[int, list[int]]], lift: float
) -> ExperimentReport:
    of = {variant: np.array(list(counts[variant].values()), np.int64).reshape(-1, 3) for variant in weights}
    variants = [_variant(variant, weights[variant], of[variant]) for variant in weights]
    srm_p = chi_square([variant.users for variant in variants], list(weights.values()))
    seen = [user for variant in weights for user in counts[variant]]
    comparisons = [found for variant in variants[1:] for found in _compared(variants[0], variant, of, lift)]
    adjusted = [
        msgspec.structs.replace(found, p=None if found.p is None else min(1.0, found.p * (len(variants) - 1)))
        for found in comparisons
    ]
    return ExperimentReport(name, version, variants, srm_p, srm_p < SRM_ALPHA, len(seen) - len(set(seen)), adjusted)


def _variant(name: str, weight: float, counts: NDArray[np.int64]) -> VariantUsers:
    some = (counts > 0).sum(axis=0)
    return VariantUsers(
        name=name,
        weight=weight,
        users=len(counts),
        clicked=int(some[_CLICKS]),
        converted=int(some[_CONVERSIONS]),
        impressions=int(counts[:, _IMPRESSIONS].sum()),
        clicks=int(counts[:, _CLICKS].sum()),
    )


def _compared(
    first: VariantUsers, other: VariantUsers, of: Mapping[str, NDArray[np.int64]], lift: float
) -> list[Comparison]:
    found = []
    for measure, a, b in (
        ("users who clicked", first.clicked, other.clicked),
        ("users who converted", first.converted, other.converted),
    ):
        test = two_proportions((a, first.users), (b, other.users))
        rate = a / first.users if first.users else math.nan
        numbers = (power(rate, rate * lift, first.users, other.users), detectable(rate, first.users, other.users))
        found.append(_comparison(other.name, measure, test, *numbers))
    clusters = [of[name][:, [_CLICKS, _IMPRESSIONS]].astype(np.float64) for name in (first.name, other.name)]
    found.append(_comparison(other.name, "clicks per impression", ratio_difference(*clusters)))
    return found


def _comparison(variant: str, measure: str, test: Difference, *more: float) -> Comparison:
    numbers = [test.value, *test.interval, test.z, test.p, *more]
    return Comparison(variant, measure, *(number if math.isfinite(number) else None for number in numbers))
