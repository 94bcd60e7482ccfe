"""How slates are made, for one user in plain Python: the reference that the arrays are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract.slate_options import SlateOptions


@dataclass
class User:
    """The candidates of one user.

    Attributes:
        scores: Of each candidate; -inf = there is none.
        values: Of each group of the options and each candidate, the values that it counts for.
        pinned: Candidate of each pin, -1 = none.
        buried: Of each rule, the candidates that it buries.
        quotas: Of each quota, the candidates that it asks for.
        vectors: Of each candidate.
    """

    scores: list[float]
    values: list[list[set[str]]] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    buried: list[set[int]] = field(default_factory=list)
    quotas: list[set[int]] = field(default_factory=list)
    vectors: NDArray[np.float32] | None = None


def plain_slate(options: SlateOptions, user: User, k: int) -> list[tuple[int, set[int]]]:
    """Chosen candidates in order, each with the numbers of the rules (pins, bury, quotas) that moved it."""
    at = {pin.place - 1: c for pin, c in zip(options.pins, user.pinned, strict=True) if c >= 0}
    moved = {c: {number} for number, c in enumerate(user.pinned) if c >= 0}
    chosen = list(at.values())
    slate: list[int | None] = []
    for place in range(k):
        if place in at:
            slate.append(at[place])
            continue
        open_places = k - place - sum(p > place for p in at)
        choice = _choice(options, user, chosen, open_places, moved)
        slate.append(choice)
        if choice is not None:
            chosen.append(choice)
    return [(c, moved.get(c, set())) for c in slate if c is not None]


def _choice(
    options: SlateOptions, user: User, chosen: list[int], open_places: int, moved: dict[int, set[int]]
) -> int | None:
    left = [c for c in range(len(user.scores)) if c not in chosen and allowed(options, user, chosen, c)]
    if not left:
        return None

    def worth(c: int) -> tuple[float, int]:
        if user.vectors is None or not options.diversify or not chosen:
            return user.scores[c], -c
        nearest = max(float(user.vectors[c] @ user.vectors[j]) for j in chosen)
        return (1 - options.diversify) * user.scores[c] - options.diversify * nearest, -c

    buried = set().union(*user.buried)
    ahead = [c for c in left if c not in buried]
    best, choice = max(left, key=worth), max(ahead or left, key=worth)
    if best != choice:
        rules = {len(options.pins) + n for n, those in enumerate(user.buried) if best in those}
        moved.setdefault(best, set()).update(rules)
    short = [
        min(quota.at_least - len(those & set(chosen)), len(those & set(left)))
        for quota, those in zip(options.quotas, user.quotas, strict=True)
    ]
    asked = [(n, those) for n, those in enumerate(user.quotas) if short[n] > 0]
    if asked and sum(short[n] for n, _ in asked) >= open_places:
        wanted = [c for c in left if any(c in those for _, those in asked)]
        served = max([c for c in wanted if c not in buried] or wanted, key=worth)
        if served != choice:
            first = len(options.pins) + len(options.bury)
            moved.setdefault(served, set()).update(first + n for n, those in asked if served in those)
        return served
    return choice


def allowed(options: SlateOptions, user: User, chosen: list[int], candidate: int) -> bool:
    """Whether the least score and the groups let a candidate into a slate that holds the chosen ones."""
    score = user.scores[candidate]
    if score == -np.inf or (options.min_score is not None and score < options.min_score):
        return False
    return all(
        sum(value in values[other] for other in chosen) < group.at_most
        for group, values in zip(options.groups, user.values, strict=True)
        for value in values[candidate]
    )
