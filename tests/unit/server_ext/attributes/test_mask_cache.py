"""The cache of masks: one evaluation for filters that say the same, bounded, read-only."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_client.contract.filters import And, Eq, Filter, In, Not, Or
from recserve_client.where import parse_where
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.mask_cache import MaskCache, canonical_key
from support.any_filter import filters
from support.plain_filter import matches

COLUMNS = AttributeColumns.of_items([{"n": number, "s": str(number % 3)} for number in range(100)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1 and b = 2", "b = 2 and a = 1"),
        ("a = 1 and (b = 2 and c = 3)", "a = 1 and b = 2 and c = 3"),
        ("a = 1 or a = 1", "a = 1"),
        ("not not a = 1", "a = 1"),
        ("a in [1, 2, 1]", "a in [2.0, 1]"),
        ("a >= 1.0", "1 <= a"),
    ],
)
def test_the_same_key(one: str, other: str) -> None:
    assert canonical_key(parse_where(one)) == canonical_key(parse_where(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a = 1", "a = true"),
        ("a = 1", 'a = "1"'),
        ("a = 1", "a != 1"),
        ("a in [1]", "a in [true]"),
        ("a > 1", "a >= 1"),
        ("a = 1 and b = 2", "a = 1 or b = 2"),
        ("not (a = 1 and b = 2)", "not a = 1 and b = 2"),
        ('a in ["1, 2"]', 'a in ["1", "2"]'),
        ('a in ["1"]', "a in [1]"),
    ],
)
def test_another_key(one: str, other: str) -> None:
    assert canonical_key(parse_where(one)) != canonical_key(parse_where(other))


@given(st.lists(filters(st.sampled_from(["x", "y"]), st.sampled_from([0, 1, 1.0, True, "a"])), min_size=2, max_size=6))
def test_filters_with_one_key_match_the_same_items(conditions: list[Filter]) -> None:
    values = [None, 0, 1, 0.5, True, "a", "ab", ["a", 1]]
    items = [{"x": x, "y": y} for x in values for y in values]
    meaning: dict[bytes, list[bool]] = {}
    for condition in conditions:
        for variant in (condition, And([condition, condition]), Not(Not(condition)), Or([condition])):
            found = [matches(item, variant) for item in items]
            assert meaning.setdefault(canonical_key(variant), found) == found


def test_a_filter_is_evaluated_once() -> None:
    cache = MaskCache(COLUMNS, 1000)
    first = cache.matches(parse_where('n < 10 and s = "0"'))
    assert cache.matches(parse_where('s = "0" and n < 10')).mask is first.mask
    assert (first.count, np.flatnonzero(first.mask).tolist()) == (4, [0, 3, 6, 9])
    assert not first.mask.flags.writeable


def test_the_least_recently_used_goes_first() -> None:
    cache = MaskCache(COLUMNS, 250)
    kept, dropped = cache.matches(Eq("n", 1)), cache.matches(Eq("n", 2))
    cache.matches(Eq("n", 1))
    cache.matches(Eq("n", 3))
    assert len(cache) == 2
    assert cache.matches(Eq("n", 1)).mask is kept.mask
    assert cache.matches(Eq("n", 2)).mask is not dropped.mask


def test_a_mask_larger_than_the_cache_is_not_kept() -> None:
    cache = MaskCache(COLUMNS, 99)
    assert cache.matches(In("n", [1, 2])).count == 2
    assert len(cache) == 0
