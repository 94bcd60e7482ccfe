"""Rows converted a column at a time: the same as one by one, for values of every kind."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from recserve_export.interactions.mapping import InteractionMapping
from recserve_export.interactions.rows import InteractionConverter
from recserve_export.interactions.scale import Scale
from recserve_server_ext.interactions.interaction import content_id
from recserve_server_ext.interactions.writes import BulkRow
from support.events import PSEUDONYMS

LATEST_S = 2e9
MAPPINGS = [
    InteractionMapping(type="rating", fields={"value": "stars"}),
    InteractionMapping(type_column="what", fields={"value": "stars"}),
    InteractionMapping(type_column="what", time_unit="ms"),
    InteractionMapping(type="View"),
    InteractionMapping(type="view", time="row"),
]
USUAL: dict[str, Any] = {"user_id": "u1", "item_id": "i1", "timestamp": "1700000000", "what": "rating", "stars": "4"}
UNUSUAL: dict[str, list[Any]] = {
    "user_id": [None, "", 7, 7.0, True, "\\N", "e\u0301", "x" * 300, ["u1"], float("nan")],
    "item_id": [
        None, "", 7, 7.0, True, "\\N", 'i"1', "i\\1", "i\t1", "Ü1", "\u200b", "\ud800", "x" * 513, "x\0", ["i"],
    ],
    "timestamp": [
        "", "now", "-5", "1700000000.25", "1700000000123", "17" * 12, "9" * 5000, "٣", "1_0", " 1700000000 ", "nan",
        1700000000, 1700000000.5, float("nan"), float("inf"), True, None, Decimal(5), "2024-03-01", "2024-03-01T12:00Z",
        datetime.datetime(2024, 3, 1), datetime.date(2024, 3, 1), 10**400, 1700000000123, 1700000000123456789,
    ],
    "what": ["", None, "PURCHASE", "add to cart", "bad!", 1, ["view"]],
    "stars": ["", None, "-0", "x", "1e300", 4, 4.0, -0.0, True, Decimal("3.5"), "1,000", float("nan"), [4], "\\N"],
}  # fmt: skip


def rows_of_every_kind() -> list[dict[str, Any]]:
    """A usual row before and after each unusual one."""
    rows = [USUAL]
    for name, values in UNUSUAL.items():
        for value in values:
            rows += [{**USUAL, name: value}, USUAL]
    return [*rows, {}]


def said(found: object) -> object:
    return tuple(found) if isinstance(found, BulkRow) else str(found)


@pytest.mark.parametrize("size", [1, 1000])
@pytest.mark.parametrize("mapping", MAPPINGS, ids=range(len(MAPPINGS)))
def test_rows_are_what_they_are_one_by_one(mapping: InteractionMapping, size: int) -> None:
    scale = Scale("points", 1, 5, unrated=0.0)
    many, single = (InteractionConverter(mapping, PSEUDONYMS, scale=scale, latest_s=LATEST_S) for _ in range(2))
    single._plain = None
    rows = rows_of_every_kind()
    numbers = list(range(1, len(rows) + 1))
    found = [
        one
        for start in range(0, len(rows), size)
        for one in many.rows(numbers[start : start + size], rows[start : start + size])
    ]
    assert [said(one) for one in found] == [said(one) for one in single.rows(numbers, rows)]
    assert any(isinstance(one, BulkRow) for one in found) == (mapping.type != "View")


def test_the_event_id_is_that_of_the_content() -> None:
    mapping = InteractionMapping(type="rating", fields={"value": "stars"})
    (row,) = InteractionConverter(mapping, PSEUDONYMS).rows([1], [{**USUAL, "item_id": "Ü 1", "stars": "4.5"}])
    assert isinstance(row, BulkRow)
    fields = {name: value for name, value in row._asdict().items() if name not in ("user", "event_id")}
    assert row.event_id == content_id(fields)
    assert msgspec.json.encode(row.value) == b"4.5"
