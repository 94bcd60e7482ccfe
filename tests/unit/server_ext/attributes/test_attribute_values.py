"""Attributes of candidates from two sources, and the boosts made of them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_client.contract import RequestError
from recserve_client.contract.slate_options import Boost, Popularity, Recency
from recserve_server_ext.attributes.boosts import boost_shares, check_boosts, popularity, recency
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.values import Source, candidate_numbers, candidate_values
from support.examples import examples
from support.plain_filter import equal

SCALARS = st.sampled_from(["", "1", "a", 1, 1.0, 0, -0.0, 0.5, 2**53 + 1, 2.0**53, True, False, 1e300])
VALUES = st.none() | SCALARS | st.lists(SCALARS, max_size=3)


def sources(items: list[Any], split: int, users: int) -> list[Source]:
    """The items as candidates of every user, in order: some from one source, the rest from another."""
    rows = np.tile(np.arange(len(items)), (users, 1))
    first, second = ([{} if v is None else {"x": v} for v in part] for part in (items[:split], items[split:]))
    return [
        Source(AttributeColumns.of_items(first), np.where(rows < split, rows, -1)),
        Source(AttributeColumns.of_items(second), np.where(rows < split, -1, rows - split)),
    ]


@examples(200)
@given(st.lists(VALUES, max_size=8), st.integers(0, 8), st.integers(1, 3))
def test_candidates_share_keys_where_they_share_values(items: list[Any], split: int, users: int) -> None:
    found = candidate_values("x", sources(items, split, users))
    n = len(items)
    held = [[] if v is None else v if isinstance(v, list) else [v] for v in items]
    keys: list[set[int]] = [set() for _ in range(users * n)]
    for position, key in zip(found.positions.tolist(), found.keys.tolist(), strict=True):
        assert key not in keys[position]
        keys[position].add(key)
    for user in range(users):
        for one in range(n):
            distinct = [v for place, v in enumerate(held[one]) if not any(equal(v, w) for w in held[one][:place])]
            assert len(keys[user * n + one]) == len(distinct)
            for other in range(n):
                shared = [v for v in distinct if any(equal(v, w) for w in held[other])]
                assert len(keys[user * n + one] & keys[other]) == len(shared)


@given(st.lists(VALUES, min_size=1, max_size=8), st.integers(0, 8))
def test_numbers(items: list[Any], split: int) -> None:
    numbers = candidate_numbers("x", sources(items, split, 2))
    expected = [float(v) if type(v) in (int, float) else np.nan for v in items]
    np.testing.assert_array_equal(numbers, [expected, expected])


def test_a_place_without_a_candidate_has_no_attributes() -> None:
    source = Source(AttributeColumns.of_items([{"x": 5}]), np.array([[0, -1]]))
    assert candidate_values("x", [source]).positions.tolist() == [0]
    assert candidate_values("absent", [source]).positions.tolist() == []
    np.testing.assert_array_equal(candidate_numbers("x", [source]), [[5.0, np.nan]])


def test_half_of_the_weight_is_left_at_the_half_life() -> None:
    values = np.array([[2026.0, 2016.0, 2006.0, 2030.0, np.nan]])
    np.testing.assert_array_equal(recency(values, 2026, 10), [[1.0, 0.5, 0.25, 1.0, np.nan]])


def test_the_most_popular_has_the_whole_weight() -> None:
    values = np.array([[0.0, 9.0, 99.0, -5.0, np.nan]])
    # log(10) / log(100) = 1/2, to the last bit or two.
    np.testing.assert_allclose(popularity(values, 99.0), [[0.0, 0.5, 1.0, 0.0, np.nan]], rtol=1e-15)
    assert popularity(np.zeros((1, 2)), 0.0).tolist() == [[0.0, 0.0]]


def test_the_shares_stand_apart() -> None:
    boosts: list[Boost] = [Recency("x", half_life=10, weight=0.2, now=2026), Popularity("x", weight=-0.1)]
    shares = boost_shares(boosts, sources([2026, 2016, None, "old"], 2, 1))
    assert shares.shape == (1, 4, 2)
    np.testing.assert_array_equal(shares[0, :, 0], [0.2, 0.1, 0.0, 0.0])
    assert shares[0, 0, 1] == -0.1
    assert shares[0, 2:, 1].tolist() == [0.0, 0.0]


def test_the_clock_is_in_seconds() -> None:
    shares = boost_shares([Recency("x", half_life=60.0, weight=1.0)], sources([0, 1e18], 1, 1))
    assert shares[0, :, 0].tolist() == [0.0, 1.0]


def test_a_boost_needs_numbers() -> None:
    known = [source.columns for source in sources(["a", 1], 1, 1)]
    check_boosts([Popularity("x", 1)], known)
    with pytest.raises(RequestError, match="attribute 'x' holds string values: a boost needs a number"):
        check_boosts([Popularity("x", 1)], known[:1])
    with pytest.raises(RequestError, match="no attribute 'y'"):
        check_boosts([Recency("y", 1, 1)], known)
