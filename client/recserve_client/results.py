"""Explains slates: which behaviours an item is recommended for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import UNSET

from recserve_client.contract import Behaviour, Slate, SlateItem


class Reason(NamedTuple):
    """The contribution of a behaviour to the score of an item."""

    behaviour: Behaviour
    contribution: float


def behaviours_of(slate: Slate) -> list[Behaviour]:
    """The history that a slate for a user by id was made from, in the order of the contributions."""
    history = slate.history if slate.history is not UNSET else []
    return [Behaviour(item=used.item, text=used.text, weight=used.weight) for used in history]


def reasons(recommended: SlateItem, history: Sequence[Behaviour]) -> list[Reason]:
    """The contributions to an item's score, largest absolute value first.

    Args:
        recommended: An item of a slate; without `explain` it has no reasons.
        history: History of the request.

    Raises:
        ValueError: The numbers of contributions and behaviours differ.
    """
    if recommended.contributions is UNSET:
        return []
    if len(recommended.contributions) != len(history):
        raise ValueError(
            f"{len(recommended.contributions)} contributions for {len(history)} behaviours; give the request's history"
        )
    pairs = map(Reason, history, recommended.contributions)
    return sorted(pairs, key=lambda reason: abs(reason.contribution), reverse=True)
