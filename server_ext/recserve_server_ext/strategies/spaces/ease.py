"""The strategy `ease`: the shallow autoencoder EASE, as input and output vectors of a trained space.

H. Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace


class Ease(LearnedSpace):
    """score(i) = sum_j w_j B_ji: B the item-to-item weights of a ridge regression, kept as x_j . v_i.

    An item without interactions has the vector that a ridge regression gives its text. By leave-one-out that finds such
    items better than other strategies do, where no behaviour is too old (docs/results/quality.md).
    """

    space = "ease"
    for_new_items: ClassVar[Mapping[str, Any] | None] = {"half_life": 1e6}
