"""Rates of outcomes by strategy, position and variant, with Wilson intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from recserve_export.outcomes.outcomes import Outcomes
from recserve_export.outcomes.proportions import wilson


class Kind(NamedTuple):
    """Answers that agree in everything that groups are made by.

    Attributes:
        strategy: From `strategy_of`.
        variants: JSON, as in the log.
        size: Items of each answer.
        answers: Number of answers.
    """

    strategy: str
    variants: str
    size: int
    answers: int


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


def by_name(kinds: Sequence[Kind], outcomes: Outcomes, names: Callable[[str, str], Sequence[str]]) -> list[Group]:
    """Groups by what `names` makes of strategy and variants, in alphabetical order; an answer may be in several."""
    answered, impressions, clicks, conversions = (Counter[str]() for _ in range(4))
    for kind in kinds:
        for name in names(kind.strategy, kind.variants):
            answered[name] += kind.answers
            impressions[name] += kind.answers * kind.size
    for answer, of in outcomes.of.items():
        for name in names(strategy_of(answer.strategy, has_user=answer.user is not None), answer.variants):
            clicks[name] += sum(outcome.clicked for outcome in of.values())
            conversions[name] += sum(outcome.converted for outcome in of.values())
    return [
        _group(name, answered[name], impressions[name], clicks[name], conversions[name]) for name in sorted(answered)
    ]


def by_position(kinds: Sequence[Kind], outcomes: Outcomes) -> list[Group]:
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


def strategy_of(strategy: str, *, has_user: bool) -> str:
    """The strategy, with a note for answers without a user: these have no variants, and come of other callers."""
    return strategy if has_user else f"{strategy}, no user"


def labels(variants: str) -> list[str]:
    """`experiment@version variant` of each experiment of an answer."""
    found: dict[str, str] = msgspec.json.decode(variants)
    return [f"{key} {variant}" for key, variant in found.items()]


def _group(name: str, answers: int, impressions: int, clicks: int, conversions: int) -> Group:
    return Group(name, answers, impressions, _rate(clicks, impressions), _rate(conversions, impressions))


def _rate(count: int, impressions: int) -> Rate:
    return Rate(count, count / impressions if impressions else None, *wilson(count, impressions))
