"""The strategy `text_head`: text vectors after a network that learned from the log what belongs together."""

from __future__ import annotations

from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace


class TextHead(LearnedSpace):
    """score(i) = u . v_i, u the recency-weighted mean of the v_j, v = normalise(x + f(x) + e).

    x is a text vector, e an item's own vector, 0 for items that nobody had to do with.
    """

    space = "text_head"
