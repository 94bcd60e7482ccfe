"""The items of a slate before they are explained."""

from __future__ import annotations

from typing import NamedTuple

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows


class Picks(NamedTuple):
    """The items of a slate, in its order; [items] each.

    Attributes:
        rows: Of the catalogue.
        owner: Place of the list (interest cluster) that each comes from; `None` where there is one.
        rules: Names of the rules that moved each; `None` without rules.
        explored: Whether each was drawn to learn of it; `None` without exploration.
        propensity: The probability with which each got its place; `None` without exploration.
        is_by_score: Whether they are ordered by their scores.
    """

    rows: Rows
    owner: Ints | None = None
    rules: list[list[str]] | None = None
    explored: Mask | None = None
    propensity: Floats | None = None
    is_by_score: bool = False

    def at(self, places: Ints, rows: Rows) -> Picks:
        """Some of them, which have these rows now."""
        return Picks(
            rows,
            None if self.owner is None else self.owner[places],
            None if self.rules is None else [self.rules[place] for place in places.tolist()],
            None if self.explored is None else self.explored[places],
            None if self.propensity is None else self.propensity[places],
        )
