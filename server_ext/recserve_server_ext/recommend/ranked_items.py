"""The ranked items of a slate, before they are explained."""

from __future__ import annotations

import msgspec

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows


class RankedItems(msgspec.Struct, frozen=True, eq=False):
    """The items of a slate in its order; [items] each.

    Attributes:
        rows: Catalogue rows.
        source: Position of the candidate list that each item comes from; `None` where there is one list.
        rules: Names of the rules that moved each item; `None` without rules.
        explored: Whether each item was drawn to explore; `None` without exploration.
        propensity: Probability with which each item got its place; `None` without exploration.
        is_by_score: Whether the items are ordered by score.
    """

    rows: Rows
    source: Ints | None = None
    rules: list[list[str]] | None = None
    explored: Mask | None = None
    propensity: Floats | None = None
    is_by_score: bool = False

    def take(self, positions: Ints, rows: Rows) -> RankedItems:
        """The items at some positions, with their current catalogue rows."""
        return RankedItems(
            rows,
            None if self.source is None else self.source[positions],
            None if self.rules is None else [self.rules[position] for position in positions.tolist()],
            None if self.explored is None else self.explored[positions],
            None if self.propensity is None else self.propensity[positions],
        )
