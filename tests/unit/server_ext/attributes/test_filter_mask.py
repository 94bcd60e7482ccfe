"""Masks of filters: equal to plain Python row by row, on a snapshot's columns and on items in memory."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from recserve_client.contract import RequestError
from recserve_client.contract.filters import Contains, Eq, Filter, In, Ne, Not, Or, Prefix, Range, Value, Within, leaves
from recserve_client.where import parse_where
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.filters import check_attributes, filter_mask
from recserve_server_ext.index.fields import ItemFields, write_fields
from support.any_filter import filters
from support.examples import examples
from support.plain_filter import distance_m, matches

WORDS = st.sampled_from(["", "a", "ab", "b", "é", "\U0001f600"])
#: Where int64 and float64 part: beyond 2**53, and at the ends of int64.
EDGES = [0, 1, -1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**63, 10**400]
INTEGERS = st.sampled_from([edge for edge in EDGES if -(2**63) <= edge < 2**63])
FLOATS = st.sampled_from([0.0, -0.0, 0.5, 1.0, -1.0, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300, 5e-324])
PLACES = st.lists(st.sampled_from([0, 48.85, -90, 90.5, 179.9, -180]), min_size=1, max_size=3)
MIXED = WORDS | INTEGERS | FLOATS | st.booleans() | st.lists(WORDS | INTEGERS | FLOATS | st.booleans(), max_size=3)
COLUMNS: dict[str, st.SearchStrategy[Any]] = {
    "word": WORDS,
    "integer": INTEGERS,
    "float": FLOATS,
    "flag": st.booleans(),
    "tags": st.lists(WORDS, max_size=3),
    "place": PLACES,
    "spot": st.lists(st.sampled_from([0.0, 48.85, -90.5, 180.0]), max_size=3),
    "mixed": MIXED | PLACES,
    "number": INTEGERS | FLOATS,
    "nothing": st.none(),
}
ITEMS = st.lists(st.fixed_dictionaries({}, optional={n: v | st.none() for n, v in COLUMNS.items()}), max_size=12)
VALUES = WORDS | st.sampled_from(EDGES) | FLOATS | st.booleans()
NAMES = st.sampled_from([*COLUMNS, "absent"])


def snapshot_columns(items: list[dict[str, Any]]) -> AttributeColumns:
    # What is mapped stays readable after its file is removed.
    with tempfile.TemporaryDirectory() as folder:
        write_fields(Path(folder) / "fields.arrow", items)
        return AttributeColumns.of_fields(ItemFields.load(Path(folder) / "fields.arrow"), len(items))


def on_a_boundary(items: list[dict[str, Any]], condition: Filter) -> bool:
    """Whether a place is so near to a circle that two formulas may disagree: 10 cm of 20,000 km, antipodes included."""
    circles = [leaf for leaf in leaves(condition) if isinstance(leaf, Within)]
    places = [value for item in items for value in item.values() if isinstance(value, list)]
    return any(abs(distance_m(place, leaf) - leaf.radius_m) < 0.1 for leaf in circles for place in places)


@examples(400)
@given(items=ITEMS, condition=filters(NAMES, VALUES))
def test_equal_to_plain_python(items: Any, condition: Filter) -> None:
    assume(not on_a_boundary(items, condition))
    expected = [matches(item, condition) for item in items]
    stored = snapshot_columns(items)
    assert filter_mask(condition, stored).tolist() == expected
    assert filter_mask(condition, AttributeColumns.of_items(items)).tolist() == expected


POOL: list[Value] = ["", "a", "ab", "é", "\U0001f600", "\uffff", True, False, *EDGES]
POOL += [0.0, -0.0, 0.5, -0.5, 1.0, 2.0**53, -(2.0**53), 2.0**63, -(2.0**63), 1e300, -1e300, 5e-324]
STORED = [value for value in POOL if not isinstance(value, int) or -(2**63) <= value < 2**63]


@pytest.mark.parametrize("kinds", [[str], [int], [float], [bool], [int, float], [str, int, float, bool]])
def test_every_value_against_every_value(kinds: list[type]) -> None:
    values = [value for value in STORED if type(value) in kinds]
    items: list[dict[str, Any]] = [{"x": value, "tags": [value, *values[:1]]} for value in values] + [{}, {"tags": []}]
    columns = snapshot_columns(items)
    for value in POOL:
        conditions: list[Filter] = [Eq("x", value), Ne("x", value), In("x", [value]), Contains("tags", value)]
        if not isinstance(value, bool):
            conditions += [Range("x", gt=value), Range("x", ge=value), Range("x", lt=value), Range("x", le=value)]
        if isinstance(value, str):
            conditions.append(Prefix("x", value))
        for condition in conditions:
            assert filter_mask(condition, columns).tolist() == [matches(item, condition) for item in items], condition


@given(items=ITEMS, condition=filters(NAMES, VALUES))
def test_both_sources_refuse_the_same(items: Any, condition: Filter) -> None:
    def refusal(columns: AttributeColumns) -> str:
        try:
            check_attributes(condition, [columns])
        except RequestError as error:
            return error.text
        return ""

    stored = snapshot_columns(items)
    assert refusal(stored) == refusal(AttributeColumns.of_items(items))


def test_lists_in_several_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_server_ext.attributes.filters._LISTS", 3)
    items: list[dict[str, Any]] = [{"tags": tags} for tags in (["a"], ["b", "a"], [], ["b"], ["c", "a", "a"], ["a"])]
    items += [{}, {"tags": ["b"]}]
    for tag in "abc":
        expected = [tag in item.get("tags", []) for item in items]
        assert filter_mask(Contains("tags", tag), snapshot_columns(items)).tolist() == expected


def test_lists_of_floats_come_back_unchanged() -> None:
    items: list[dict[str, Any]] = [{"place": [48.85, 2.35]}, {}, {"place": []}, {"place": [1e300, -0.0, 5e-324]}]
    with tempfile.TemporaryDirectory() as folder:
        write_fields(Path(folder) / "fields.arrow", items)
        fields = ItemFields.load(Path(folder) / "fields.arrow")
    assert not pa.types.is_struct(fields.column("place").type)
    assert fields.take(["place"], np.arange(4)) == [{"place": item.get("place")} for item in items]


FILMS = [
    {"title": "Star Wars", "year": 1977, "genre": ["Sci-Fi", "Drama"], "rating": 8.6, "place": [48.8566, 2.3522]},
    {"title": "Alien", "year": 1979, "genre": [], "place": [51.5074, -0.1278]},
    {"title": "Starman", "genre": ["Drama"], "rating": 7, "seen": True},
]


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("exists(year)", [0, 1]),
        ("not exists(year)", [2]),
        ("year != 1977", [1]),
        ("not year = 1977", [1, 2]),
        ("year = 1977.0", [0]),
        ("rating = 7.0", [2]),
        ("rating >= 7", [0, 2]),
        ("exists(genre)", [0, 1, 2]),
        ('"Drama" in genre', [0, 2]),
        ('title prefix "Star"', [0, 2]),
        ('title prefix "star"', []),
        ('"Alien" <= title < "Star X"', [0, 1]),
        ('title in ["Alien", "Aliens"]', [1]),
        ("seen = true", [2]),
        # Paris to London: 343.6 km.
        ("within(place, 48.8566, 2.3522, 343km)", [0]),
        ("within(place, 48.8566, 2.3522, 344km)", [0, 1]),
        ("within(place, 48.8566, 2.3522, 0m)", [0]),
    ],
)
def test_the_documented_semantics(where: str, rows: list[int]) -> None:
    columns = AttributeColumns.of_items(FILMS)
    condition = parse_where(where)
    check_attributes(condition, [columns])
    mask = filter_mask(condition, columns)
    assert np.flatnonzero(mask).tolist() == rows
    assert np.count_nonzero(mask) == len(rows)


@pytest.mark.parametrize(
    ("condition", "kind", "text"),
    [
        (Eq("yaer", 1977), "unknown_field", "the catalogue has no attribute 'yaer'; did you mean 'year'?"),
        (Eq("title", 5), "invalid_request", "attribute 'title' holds string values: it cannot be compared with 5, a n"),
        (Range("title", ge=5), "invalid_request", "'title' holds string values"),
        (Eq("year", True), "invalid_request", "'year' holds number values: it cannot be compared with True, a boolean"),
        (In("seen", [1]), "invalid_request", "'seen' holds boolean values: it cannot be compared with 1, a number"),
        (Ne("genre", "Drama"), "invalid_request", "'genre' holds list of string values: it cannot be compared with"),
        (Ne("genre", "Drama"), "invalid_request", "use contains"),
        (Contains("genre", 5), "invalid_request", "'genre' holds list of string values: it cannot be compared with 5"),
        (Contains("title", "S"), "invalid_request", "'title' holds string values: contains needs a list; use eq"),
        (Within("genre", 0, 0, 1), "invalid_request", "within needs a place [lat, lon] in degrees"),
        (Not(Or([Eq("title", "a"), Eq("title", 5)])), "invalid_request", "'title'"),
    ],
)
def test_what_is_refused(condition: Filter, kind: str, text: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_attributes(condition, [AttributeColumns.of_items(FILMS)])
    assert refused.value.kind.value == kind
    assert text in refused.value.text


def test_changed_items_may_have_what_the_snapshot_lacks() -> None:
    snapshot, changed = AttributeColumns.of_items(FILMS), AttributeColumns.of_items([{"title": 5, "studio": "Fox"}])
    for condition in (Eq("title", 5), Eq("studio", "Fox")):
        with pytest.raises(RequestError):
            check_attributes(condition, [snapshot])
        check_attributes(condition, [snapshot, changed])
        assert filter_mask(condition, snapshot).tolist() == [False] * 3
        assert filter_mask(condition, changed).tolist() == [True]


def test_values_that_no_snapshot_holds() -> None:
    columns = AttributeColumns.of_items([{"x": float("nan")}, {"x": 2**70}, {"x": {"a": 1}}, {"x": 1}])
    assert filter_mask(parse_where("exists(x)"), columns).tolist() == [False, True, True, True]
    assert filter_mask(parse_where("x > 0"), columns).tolist() == [False, False, False, True]
