"""The strategy `ease`: the shallow autoencoder EASE, as input and output vectors of a trained space.

H. Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
"""

from __future__ import annotations

from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace


class Ease(LearnedSpace):
    """score(i) = sum_j w_j B_ji: B the item-to-item weights of a ridge regression, kept as x_j . v_i."""

    space = "ease"
