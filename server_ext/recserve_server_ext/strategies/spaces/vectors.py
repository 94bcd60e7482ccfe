"""The strategy `vectors`: the caller's own item vectors, of images, audio, or another model."""

from __future__ import annotations

from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace


class OwnVectors(LearnedSpace):
    """score(i) = u . v_i, u the recency-weighted mean of unit item vectors."""

    space = "vectors"
