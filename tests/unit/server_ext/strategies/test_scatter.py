"""Sums and look-ups by catalogue row."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.strategies.parts.scatter import Scatter

ITEMS = 12
ROWS = st.lists(st.integers(0, ITEMS - 1), max_size=40)


#: With few rows sums are made for the whole catalogue, with many for the distinct rows alone.
@given(ROWS, ROWS, st.integers(0, 2**16), st.sampled_from([ITEMS, 1000]))
def test_sums_and_first_occurrences_are_those_of_a_loop_and_leave_nothing_behind(
    rows: list[int], wanted: list[int], seed: int, items: int
) -> None:
    values = np.random.default_rng(seed).normal(size=len(rows))
    sums: dict[int, float] = {}
    for row, value in zip(rows, values.tolist(), strict=True):
        sums[row] = sums.get(row, 0.0) + value
    scatter = Scatter()
    for _ in range(2):
        distinct, found = scatter.over(items).sums(np.array(rows, np.int64), values)
        assert distinct.tolist() == sorted(sums)
        np.testing.assert_allclose(found, [sums[row] for row in distinct.tolist()], atol=1e-12)
        assert scatter.firsts(np.array(rows, np.int64)).tolist() == [
            place for place, row in enumerate(rows) if row not in rows[:place]
        ]
        among = scatter.among(np.array(rows, np.int64), np.array(wanted, np.int64)).tolist()
        assert among == [place for place, row in enumerate(wanted) if row in rows]
        at = scatter.at(distinct, found, np.array(wanted, np.int64))
        np.testing.assert_allclose(at, [sums.get(row, 0.0) for row in wanted], atol=1e-12)
        places = scatter.places(distinct, np.array(wanted, np.int64)).tolist()
        assert places == [distinct.tolist().index(row) if row in sums else -1 for row in wanted]


def test_it_grows_with_the_catalogue() -> None:
    scatter = Scatter()
    assert scatter.over(2).sums(np.array([1, 1]), np.array([1.0, 2.0]))[1].tolist() == [3.0]
    assert scatter.over(9).sums(np.array([8]), np.array([1.0]))[0].tolist() == [8]
    assert scatter.over(3).at(np.array([8]), np.array([5.0]), np.array([0, 8])).tolist() == [0.0, 5.0]
