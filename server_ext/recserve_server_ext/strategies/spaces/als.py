"""The strategy `als`: implicit-feedback matrix factorisation, where a user is folded in from the profile.

Y. Hu, Y. Koren and C. Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recserve_server_ext.common.arrays import Floats, Vectors
from recserve_server_ext.index.space import Space
from recserve_server_ext.strategies.spaces.learned_space import LearnedSpace

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import SpaceView


class Als(LearnedSpace):
    """score(i) = u . y_i, u = A^-1 sum_j (1 + a w_j) y_j, A = Y'Y + sum_j a w_j y_j y_j' + l I.

    w_j is the recency weight over the largest of the user. `alpha` (a) and `regularization` (l) are those of the
    training.
    """

    space = "als"

    def fold_in(self, space: SpaceView, inputs: Vectors, weights: Floats) -> tuple[Vectors, Floats]:
        """A^-1 y_j as vectors of the behaviours, and 1 + a w_j as their shares."""
        inverse, alpha = self._fixed(space)
        largest = weights.max(axis=1, keepdims=True, initial=0.0)
        confidence = alpha * weights / np.where(largest > 0, largest, 1.0)
        # A = G + F'CF. F A^-1 = (I + K C)^-1 F G^-1, K = F G^-1 F' (Woodbury): a system of the size of the history.
        factors = inputs.astype(np.float64)
        known = (factors.reshape(-1, space.dim) @ inverse).reshape(factors.shape)
        system = np.matmul(known, factors.swapaxes(1, 2)) * confidence[:, None, :]
        system[:, *np.diag_indices(system.shape[1])] += 1.0
        behaviours = np.linalg.solve(system, known)
        return behaviours.astype(np.float32), np.where(weights > 0, 1.0 + confidence, 0.0)

    def _fixed(self, space: SpaceView) -> tuple[Floats, float]:
        """G^-1, G = Y'Y + l I, and a; computed once for each space."""
        if getattr(self, "_fixed_of", None) is not space.space:
            parameters, vectors = space.space.manifest.parameters, space.space.vectors
            gram = vectors.T.astype(np.float64) @ vectors.astype(np.float64)
            self._inverse = np.linalg.inv(gram + parameters["regularization"] * np.eye(space.dim))
            self._alpha = parameters["alpha"]
            self._fixed_of: Space = space.space
        return self._inverse, self._alpha
