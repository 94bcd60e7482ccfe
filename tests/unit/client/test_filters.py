"""Filters as JSON: what is read, and what is refused with the name of the limit."""

import msgspec
import pytest
from hypothesis import given

from recserve_client.contract import RequestError, Unpacker
from recserve_client.contract.filters import (
    And,
    Contains,
    Eq,
    Filter,
    FilterBounds,
    In,
    Not,
    Range,
    check_filter,
    leaf_values,
    leaves,
)
from support.any_filter import NAMES, VALUES, filters

DRAMA = b"""{"op": "and", "of": [{"op": "range", "attribute": "year", "ge": 1990},
                                 {"op": "contains", "attribute": "genre", "value": "Drama"}]}"""
ONE = b'{"op":"exists","attribute":"x"}'
unpacked = Unpacker[Filter](Filter)


def checked(raw: bytes) -> Filter:
    """A filter as the server reads it."""
    condition = unpacked(raw)
    check_filter(condition)
    return condition


def nested(depth: int) -> bytes:
    return b'{"op":"not","of":' * depth + ONE + b"}" * depth


def test_the_documented_form() -> None:
    assert checked(DRAMA) == And([Range("year", ge=1990), Contains("genre", "Drama")])


@given(filters(NAMES, VALUES))
def test_json_and_back(condition: Filter) -> None:
    raw = msgspec.json.encode(condition)
    # Encoded again, since 1 == 1.0 == True in Python.
    assert msgspec.json.encode(checked(raw)) == raw


@pytest.mark.parametrize(
    ("raw", "kind", "part"),
    [
        (nested(1000), "invalid_json", "limits.filter.depth"),
        (nested(100_000), "invalid_json", "limits.filter.depth"),
        (nested(32), "too_large", "nested 33 deep or more; limits.filter.depth allows 32"),
        (b'{"op":"or","of":[' + b",".join([ONE] * 256) + b"]}", "too_large", "limits.filter.nodes allows 256"),
        (
            b'{"op":"in","attribute":"x","values":[' + b",".join(b"%d" % n for n in range(100_000)) + b"]}",
            "too_large",
            "lists 100,000 values or more; limits.filter.values allows 10,000",
        ),
        (
            b'{"op":"eq","attribute":"x","value":"' + b"a" * 1025 + b'"}',
            "too_large",
            "limits.filter.string_chars allows 1,024",
        ),
        (b'{"op":"range","attribute":"x"}', "invalid_request", "range on 'x' has no bound"),
        (b'{"op":"range","attribute":"x","gt":1,"ge":1}', "invalid_request", "both gt and ge"),
        (b'{"op":"range","attribute":"x","lt":1,"le":1}', "invalid_request", "both lt and le"),
        (b'{"op":"range","attribute":"x","ge":1,"le":"a"}', "invalid_request", "a string and a number"),
        (b'{"op":"range","attribute":"x","ge":true}', "invalid_request", "$.ge"),
        (b'{"op":"eq","attribute":"x","valeu":1}', "invalid_request", "unknown option 'valeu'"),
        (b'{"op":"eq","attribute":"x","value":null}', "invalid_request", "$.value"),
        (b'{"op":"and","of":[]}', "invalid_request", "$.of"),
        (b'{"op":"xor","of":[]}', "invalid_request", "xor"),
        (b'{"op":"within","attribute":"p","lat":91,"lon":0,"radius_m":1}', "invalid_request", "$.lat"),
        (b'{"op":', "invalid_json", "it begins"),
        (b"[]", "invalid_request", "expected `object`"),
        (b'{"op":"exists","attribute":"\xff"}', "invalid_json", "it begins"),
    ],
)
def test_what_is_refused(raw: bytes, kind: str, part: str) -> None:
    with pytest.raises(RequestError) as refused:
        checked(raw)
    assert refused.value.kind.value == kind
    assert part in refused.value.text


def test_the_bounds_themselves_are_allowed() -> None:
    checked(nested(31))
    checked(b'{"op":"or","of":[' + b",".join([ONE] * 255) + b"]}")
    check_filter(In("x", list(range(10_000))))
    check_filter(Eq("x", "a" * 1024))


def test_values_count_over_the_whole_filter() -> None:
    with pytest.raises(RequestError, match=r"limits\.filter\.values allows 3"):
        check_filter(And([In("x", [1, 2]), In("y", [1, 2])]), FilterBounds(values=3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(value: float) -> None:
    with pytest.raises(RequestError, match="numbers must be finite"):
        check_filter(Eq("x", value))


def test_a_filter_made_in_python_is_checked_without_recursion() -> None:
    condition: Filter = Eq("x", 1)
    for _ in range(5000):
        condition = Not(condition)
    with pytest.raises(RequestError, match=r"limits\.filter\.depth"):
        check_filter(condition)


def test_leaves_and_their_values() -> None:
    condition = And([Not(In("a", [1, "b"])), Range("c", gt=0, le=5)])
    assert [leaf_values(leaf) for leaf in leaves(condition)] == [[1, "b"], [0, 5]]
