"""Filters as text: there and back, and a caret below what is wrong."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recserve_client.contract import RequestError
from recserve_client.contract.filters import (
    And,
    Contains,
    Eq,
    Exists,
    Filter,
    In,
    Ne,
    Not,
    Or,
    Prefix,
    Range,
    Within,
)
from recserve_client.where import WhereError, format_where, parse_where
from support.any_filter import NAMES, VALUES, filters


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ('year >= 1990 and "Drama" in genre', And([Range("year", ge=1990), Contains("genre", "Drama")])),
        ('not (language = "en" or rating < 5)', Not(Or([Eq("language", "en"), Range("rating", lt=5)]))),
        ('title prefix "Star"', Prefix("title", "Star")),
        ("exists(director)", Exists("director")),
        ("year in [1999, 2003]", In("year", [1999, 2003])),
        ("within(place, 48.85, 2.35, 10km)", Within("place", 48.85, 2.35, 10_000.0)),
        ("within(place, -48.85, -2.35, 250.5 m)", Within("place", -48.85, -2.35, 250.5)),
        ("1990 <= year < 2000", Range("year", ge=1990, lt=2000)),
        ("2000 > year >= 1990", Range("year", ge=1990, lt=2000)),
        ("a = 1 or b = 2 and not c != true", Or([Eq("a", 1), And([Eq("b", 2), Not(Ne("c", True))])])),
        ("(a = 1 or b = 2) AND c = -1.5e3", And([Or([Eq("a", 1), Eq("b", 2)]), Eq("c", -1500.0)])),
        ("a = 1 and (b = 2 and c = 3)", And([Eq("a", 1), And([Eq("b", 2), Eq("c", 3)])])),
        ('`not` = "a \\"quote\\"" and x-y.z = false', And([Eq("not", 'a "quote"'), Eq("x-y.z", False)])),
        ("5 in `odd``name`", Contains("odd`name", 5)),
        ('released >= "1999-01-01"', Range("released", ge="1999-01-01")),
    ],
)
def test_what_a_text_says(text: str, condition: Filter) -> None:
    assert msgspec.json.encode(parse_where(text)) == msgspec.json.encode(condition)


@given(filters(NAMES, VALUES))
@example(Within("p", 0.1, 1e-7, 1e300))
@example(Within("p", 90.0, -0.0, 0.0))
def test_there_and_back(condition: Filter) -> None:
    # Encoded, since 1 == 1.0 == True in Python.
    assert msgspec.json.encode(parse_where(format_where(condition))) == msgspec.json.encode(condition)


WORDS = ["year", ">=", "<=", "=", "1", '"a"', "in", "[", "]", "(", ")", ",", "and", "or", "not", "`x`", "within", "km"]


def refusal(text: str) -> RequestError | None:
    try:
        parse_where(text)
    except RequestError as error:
        return error
    return None


@given(st.text() | st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_any_text_is_a_filter_or_refused_in_two_lines(text: str) -> None:
    error = refusal(text)
    if isinstance(error, WhereError):
        assert 0 <= error.position <= len(text)
        assert str(error).count("\n") == 1
    elif error is not None:
        # What only `check_filter` finds: two kinds of bounds in one range.
        assert error.kind.value == "invalid_request"


def test_a_group_of_one_is_opened() -> None:
    assert format_where(And([Or([Eq("a", 1)])])) == "a = 1"
    assert format_where(Not(And([Or([Eq("a", 1), Eq("b", 2)])]))) == "not (a = 1 or b = 2)"


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("year >= and x = 1", 8, "a value is expected here"),
        ("language = en", 11, 'a text stands in quotes: "en"'),
        ("language = 'en'", 11, "double quotes"),
        ("year == 3", 6, "a value is expected"),
        ("year 3", 5, "= != < <= > >= in or prefix is expected"),
        ('x = "abc', 4, "this text has no end"),
        (r'x = "\q"', 4, "escape"),
        ("x = `abc", 4, "this name has no end"),
        ("(year > 3", 9, ") is expected"),
        ("year > 3)", 8, "or the end of the filter"),
        ("1 > year < 3", 9, "one lower and one upper bound"),
        ("or = 3", 0, "a condition is expected"),
        ("exists(or)", 7, "`or`"),
        ("", 0, "a condition is expected"),
        ("x > true", 4, "no order"),
        ("true < x", 5, "in and a name"),
        ("title prefix 5", 13, 'a "text" is expected'),
        ("within(p, 95, 3, 2km)", 10, "degrees north"),
        ("within(p, 5, 3, 2)", 17, "m or km"),
        ("within(p, 5, 3, -2km)", 16, "a distance such as"),
        ("a = 1e999", 4, "too large"),
        ("a = " + "9" * 5000, 4, "fewer digits"),
        ("(" * 1000, 32, "limits.filter.depth allows 32"),
        ("not " * 1000 + "a = 1", 128, "limits.filter.depth allows 32"),
        ("a = 1 & b = 2", 6, "& has no meaning"),
    ],
)
def test_the_caret_is_below_what_is_wrong(text: str, column: int, part: str) -> None:
    with pytest.raises(WhereError) as refused:
        parse_where(text)
    assert refused.value.position == column
    line, below = str(refused.value).split("\n")
    assert part in below
    assert line[below.index("^") :].startswith(text[column : column + 10])
    assert line in text


def test_a_filter_over_a_bound_is_refused() -> None:
    with pytest.raises(RequestError, match=r"limits\.filter\.nodes"):
        parse_where(" or ".join(["a = 1"] * 300))
