"""Sparse vectors over the rows of a catalogue."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.strategies.parts.sparse import SparseVector


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 12), st.integers(0, 2**16))
def test_the_best_are_those_of_a_full_sort(values: list[int], n: int, seed: int) -> None:
    """Not all values are sorted; ties go by row."""
    usable = np.random.default_rng(seed).random(len(values)) < 0.8
    vector = SparseVector(np.arange(len(values)), np.array(values, np.float64))
    rows = sorted(np.flatnonzero(usable).tolist(), key=lambda row: (-values[row], row))
    assert vector.best(n, usable).tolist() == rows[:n]
