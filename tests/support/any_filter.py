"""Hypothesis strategies for filters."""

from __future__ import annotations

from hypothesis import strategies as st

from recserve_client.contract.filters import (
    And,
    Bound,
    Contains,
    Eq,
    Exists,
    Filter,
    In,
    Leaf,
    Ne,
    Not,
    Or,
    Prefix,
    Range,
    Value,
    Within,
)

#: Text that UTF-8 can carry.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES: st.SearchStrategy[Value] = TEXTS | st.booleans() | NUMBERS
NAMES = TEXTS.filter(bool) | st.sampled_from(["year", "and", "In", "a-b", "a.b", "exists", "x y", "`"])


def ranges(names: st.SearchStrategy[str], bounds: st.SearchStrategy[Bound]) -> st.SearchStrategy[Range]:
    """Ranges with one or two bounds."""
    lower, upper = st.sampled_from(["gt", "ge"]), st.sampled_from(["lt", "le"])
    one = st.builds(lambda name, side, value: Range(name, **{side: value}), names, lower | upper, bounds)
    two = st.builds(lambda name, low, high, a, b: Range(name, **{low: a, high: b}), names, lower, upper, bounds, bounds)
    return one | two


def leaves(names: st.SearchStrategy[str], values: st.SearchStrategy[Value]) -> st.SearchStrategy[Leaf]:
    """Conditions on the named attributes."""
    texts = values.filter(lambda value: isinstance(value, str)).map(str)
    numbers = values.filter(lambda value: isinstance(value, int | float) and not isinstance(value, bool))
    return st.one_of(
        st.builds(Eq, names, values),
        st.builds(Ne, names, values),
        st.builds(In, names, st.lists(values, min_size=1, max_size=4)),
        ranges(names, texts),
        ranges(names, numbers),
        st.builds(Exists, names),
        st.builds(Contains, names, values),
        st.builds(Prefix, names, texts),
        st.builds(Within, names, st.floats(-90, 90), st.floats(-180, 180), st.floats(0, 3e7)),
    )


def filters(names: st.SearchStrategy[str], values: st.SearchStrategy[Value]) -> st.SearchStrategy[Filter]:
    """Filters of a few conditions, groups of two and three."""
    return st.recursive(
        leaves(names, values),
        lambda inner: st.one_of(
            st.builds(Not, inner),
            st.builds(And, st.lists(inner, min_size=2, max_size=3)),
            st.builds(Or, st.lists(inner, min_size=2, max_size=3)),
        ),
        max_leaves=8,
    )
