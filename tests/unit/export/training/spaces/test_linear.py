"""Rows of the largest weights, against sorting each row."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from recserve_export.training.spaces.linear import heaviest_of_sparse


@pytest.mark.parametrize("most", [1, 3, 10, 1000])
def test_the_heaviest_of_each_row_with_ties(most: int) -> None:
    random = np.random.default_rng(0)
    # Few distinct weights, so that many are equal to the last one that is kept; some rows are short, some empty.
    dense = np.round(random.standard_normal((60, 60)), 1) * (random.random((60, 60)) < random.random((60, 1)))
    dense[7] = 0
    found = heaviest_of_sparse(sparse.csr_array(dense.astype(np.float32)), most)
    for row, weights in enumerate(dense):
        pairs = sorted((-weight, column) for column, weight in enumerate(weights) if weight > 0 and column != row)
        own = slice(found.offsets[row], found.offsets[row + 1])
        assert found.columns[own].tolist() == [column for _, column in pairs[:most]]
        assert found.weights[own] == pytest.approx([-weight for weight, _ in pairs[:most]])
