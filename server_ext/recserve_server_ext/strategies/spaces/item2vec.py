"""The strategy `item2vec`: word2vec on the sequences of users.

O. Barkan and N. Koenigstein, "Item2Vec: neural item embedding for collaborative filtering", MLSP 2016.
"""

from __future__ import annotations

from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace


class Item2Vec(LearnedSpace):
    """score(i) = u . v_i, u the recency-weighted mean of unit item vectors."""

    space = "item2vec"
