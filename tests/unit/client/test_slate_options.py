"""Options of a slate as JSON: defaults, and what is refused."""

import msgspec
import pytest

from recserve_client.contract import RequestError
from recserve_client.contract.filters import Eq, Exists, Filter, Not
from recserve_client.contract.slate_options import (
    Bury,
    Group,
    Pin,
    Popularity,
    Quota,
    Recency,
    SlateOptions,
    check_slate_options,
)

FULL = SlateOptions(
    diversify=0.3,
    min_score=0.2,
    groups=[Group("genre", 2)],
    boosts=[Recency("year", half_life=10, weight=0.1, now=2026), Popularity("reviews", weight=0.05)],
    pins=[Pin("tt1", 1), Pin("tt2", 3, name="launch")],
    bury=[Bury(Eq("rated", "R"))],
    quotas=[Quota(Exists("oscars"), 2)],
)


def test_json_and_back() -> None:
    raw = msgspec.json.encode(FULL)
    assert msgspec.json.decode(raw, type=SlateOptions) == FULL
    assert b'{"by":"recency","attribute":"year","half_life":10' in raw
    check_slate_options(FULL, 10)


def test_nothing_is_the_default() -> None:
    assert msgspec.json.decode(b"{}", type=SlateOptions) == SlateOptions()
    assert msgspec.json.encode(SlateOptions()) == b"{}"
    check_slate_options(SlateOptions(), 1)


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b'{"diversify": 1.1}', "diversify"),
        (b'{"divers": 1}', "unknown field"),
        (b'{"groups": [{"attribute": "a", "at_most": 0}]}', "at_most"),
        (b'{"boosts": [{"by": "recency", "attribute": "a", "half_life": 0, "weight": 1}]}', "half_life"),
        (b'{"boosts": [{"by": "fame", "attribute": "a", "weight": 1}]}', "fame"),
        (b'{"boosts": [{"by": "popularity", "attribute": "a", "weight": 1e9}]}', "weight"),
        (b'{"pins": [{"item": "a", "place": 0}]}', "place"),
        (b'{"bury": [' + b",".join([b'{"where": {"op": "exists", "attribute": "a"}}'] * 17) + b"]}", "bury"),
    ],
)
def test_what_the_types_refuse(raw: bytes, part: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=part):
        msgspec.json.decode(raw, type=SlateOptions)


def deep() -> Filter:
    condition: Filter = Exists("a")
    for _ in range(40):
        condition = Not(condition)
    return condition


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (SlateOptions(pins=[Pin("a", 11)]), "pin of 'a' to place 11: the slate has k = 10 places"),
        (SlateOptions(pins=[Pin("a", 2), Pin("b", 2)]), "place 2 is pinned twice: to 'a' and 'b'"),
        (SlateOptions(pins=[Pin("a", 2), Pin("a", 3)]), "'a' is pinned twice"),
        (SlateOptions(quotas=[Quota(Exists("a"), 6), Quota(Exists("b"), 5)]), "the quotas ask for 11 items together"),
        (SlateOptions(quotas=[Quota(deep(), 1)]), "limits.filter.depth allows 32"),
        (SlateOptions(bury=[Bury(deep())]), "limits.filter.depth allows 32"),
    ],
)
def test_what_the_check_refuses(options: SlateOptions, part: str) -> None:
    with pytest.raises(RequestError) as refused:
        check_slate_options(options, 10)
    assert part in refused.value.text
