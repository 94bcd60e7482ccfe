"""Sparse vectors over the rows of a catalogue."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.strategies.parts.sparse import SparseVector, best_rows


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 12), st.integers(0, 2**16))
def test_the_best_are_those_of_a_full_sort(values: list[int], n: int, seed: int) -> None:
    """Not all values are sorted; ties go by row."""
    usable = np.random.default_rng(seed).random(len(values)) < 0.8
    vector = SparseVector(np.arange(len(values)), np.array(values, np.float64))
    rows = sorted(np.flatnonzero(usable).tolist(), key=lambda row: (-values[row], row))
    assert vector.best(n, usable).tolist() == rows[:n]
    # A sorted vector leaves out what has no value.
    assert vector.sorted().best(n, usable).tolist() == [row for row in rows if values[row]][:n]


def test_a_sorted_vector_is_looked_through_as_far_as_needed() -> None:
    vector = SparseVector(np.arange(5000), np.arange(5000, 0, -1).astype(np.float64)).sorted()
    usable = np.zeros(5000, np.bool_)
    usable[[0, 300, 1500, 4999]] = True
    assert vector.best(2, usable).tolist() == [0, 300]
    assert vector.best(3, usable).tolist() == [0, 300, 1500]
    assert vector.best(9, usable).tolist() == [0, 300, 1500, 4999]


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**16))
def test_the_best_of_some_rows_are_those_of_a_full_sort(values: list[int], n: int, spare: int, seed: int) -> None:
    """However few of the greatest can be used: then the values are looked at again."""
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(3 * len(values))[: len(values)])
    usable = random.random(3 * len(values)) < 0.3
    value_of = dict(zip(rows.tolist(), values, strict=True))
    expected = sorted(value_of, key=lambda row: (-value_of[row], row))
    scores = np.array(values, np.float64)
    assert best_rows(rows, scores, n).tolist() == expected[:n]
    assert best_rows(rows, scores, n, usable, spare).tolist() == [row for row in expected if usable[row]][:n]
