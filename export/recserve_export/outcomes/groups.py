"""Rates of outcomes by strategy, position and variant, with Wilson intervals."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from recserve_export.outcomes.outcomes import Outcomes
from recserve_export.outcomes.proportions import wilson


class Kind(NamedTuple):
    """Answers that agree in everything that groups are made by.

    Attributes:
        strategy: See `strategy_of`.
        variants: JSON, as in the log.
        size: Items of each.
        answers: How many.
    """

    strategy: str
    variants: str
    size: int
    answers: int


class Rate(msgspec.Struct, frozen=True):
    """A part of impressions, with its Wilson interval."""

    count: int
    rate: float | None
    low: float
    high: float


class Group(msgspec.Struct, frozen=True):
    """Impressions with something in common.

    Attributes:
        name: What that is.
        answers: Answers.
        impressions: Recommended items.
        clicks: Of these, those that were clicked.
        conversions: Those that were converted.
    """

    name: str
    answers: int
    impressions: int
    clicks: Rate
    conversions: Rate


def by_name(kinds: Sequence[Kind], outcomes: Outcomes, names: Callable[[str, str], Sequence[str]]) -> list[Group]:
    """Groups by what `names` makes of strategy and variants, in alphabetical order; an answer may be in several."""
    answered: Counter[str] = Counter()
    impressions: Counter[str] = Counter()
    for kind in kinds:
        for name in names(kind.strategy, kind.variants):
            answered[name] += kind.answers
            impressions[name] += kind.answers * kind.size
    clicks: Counter[str] = Counter()
    conversions: Counter[str] = Counter()
    for answer, of in outcomes.of.items():
        for name in names(strategy_of(answer.strategy, has_user=answer.user is not None), answer.variants):
            clicks[name] += sum(outcome.clicked for outcome in of.values())
            conversions[name] += sum(outcome.converted for outcome in of.values())
    return [
        _group(name, answered[name], impressions[name], clicks[name], conversions[name]) for name in sorted(answered)
    ]


def by_position(kinds: Sequence[Kind], outcomes: Outcomes) -> list[Group]:
    """Groups by position, from 1: an answer with n items has an impression at each of the first n."""
    sizes: dict[int, int] = defaultdict(int)
    for kind in kinds:
        sizes[kind.size] += kind.answers
    longest = max(sizes, default=0)
    of_size = np.zeros(longest + 1, np.int64)
    of_size[list(sizes)] = list(sizes.values())
    # Answers with more than p items have one at position p.
    shown = of_size[::-1].cumsum()[::-1][1:].tolist()
    clicks: Counter[int] = Counter()
    conversions: Counter[int] = Counter()
    for of in outcomes.of.values():
        for place, outcome in of.items():
            clicks[place] += outcome.clicked
            conversions[place] += outcome.converted
    return [
        _group(str(place + 1), count, count, clicks[place], conversions[place]) for place, count in enumerate(shown)
    ]


def strategy_of(strategy: str, *, has_user: bool) -> str:
    """The strategy, and where there was no user, that: such answers have no variants, and other callers."""
    return strategy if has_user else f"{strategy}, no user"


def labels(variants: str) -> list[str]:
    """`experiment@version variant` of each experiment of an answer."""
    found: dict[str, str] = msgspec.json.decode(variants)
    return [f"{key} {variant}" for key, variant in found.items()]


def _group(name: str, answers: int, impressions: int, clicks: int, conversions: int) -> Group:
    return Group(name, answers, impressions, _rate(clicks, impressions), _rate(conversions, impressions))


def _rate(count: int, impressions: int) -> Rate:
    return Rate(count, count / impressions if impressions else None, *wilson(count, impressions))
