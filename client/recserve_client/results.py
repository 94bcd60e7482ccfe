"""What the answers say, in the words of the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from msgspec import UNSET

from recserve_client.contract import Behaviour, Slate, SlateItem


class Reason(NamedTuple):
    """What a behaviour adds to the score of an item."""

    behaviour: Behaviour
    contribution: float


def behaviours_of(slate: Slate) -> list[Behaviour]:
    """The history that the answer for a user was made from, in the order of its contributions."""
    used = slate.history if slate.history is not UNSET else []
    return [Behaviour(item=of.item, text=of.text, weight=of.weight) for of in used]


def reasons(recommended: SlateItem, history: Sequence[Behaviour]) -> list[Reason]:
    """Why an item is in the slate: the largest contribution first, whichever its sign; they add up to the score.

    Args:
        recommended: An item of the slate; asked for without `explain`, it has no reasons.
        history: Of the request.

    Raises:
        ValueError: The history is not as long as the request's was.
    """
    if recommended.contributions is UNSET:
        return []
    if len(recommended.contributions) != len(history):
        raise ValueError(
            f"{len(recommended.contributions)} contributions for {len(history)} behaviours; give the request's history"
        )
    pairs = map(Reason, history, recommended.contributions)
    return sorted(pairs, key=lambda reason: abs(reason.contribution), reverse=True)
