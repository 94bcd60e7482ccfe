"""Import: every row that is no item is refused, named and counted; and what values become."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_export.catalogue.importer import ImportReport
from recserve_export.catalogue.mapping import (
    AttributeField,
    FieldMapping,
    TextField,
    mapping_from_options,
    validated,
)
from recserve_export.catalogue.rows import Refusal, RowConverter
from recserve_export.tabular.options import FileFormat, ReadOptions
from recserve_export.tabular.rows import Reason, RowError
from recserve_export.tabular.values import ValueType
from recserve_server_ext.catalogue.store import StoredItem
from support.imports import BOOKS, COLUMNS, DUNE, EMMA, FORMATS, Importer, Rows, write_rows


@pytest.mark.parametrize("file_format", FORMATS)
def test_refusals_that_every_format_has(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    rows: Rows = [
        DUNE,
        {"title": "no id"},
        {"sku": "  ", "title": "blank id"},
        {"sku": "x" * 513, "title": "long id"},
        {"sku": "b1", "title": "Dune again"},
        {"sku": "b3", "title": "  ", "blurb": ""},
        {"sku": "x" * 512, "title": "longest id"},
    ]
    report = importer(write_rows(tmp_path / f"x.{file_format}", file_format, rows))
    assert importer.refused == [
        (2, None, Reason.MISSING_ID),
        (3, None, Reason.MISSING_ID),
        (4, None, Reason.ID_TOO_LONG),
        (5, "b1", Reason.DUPLICATE_ID),
        (6, "b3", Reason.EMPTY_TEXT),
    ]
    assert importer.refusals[3].detail == "row 1 has this id already"
    assert report.record.refusals == {"missing_id": 2, "id_too_long": 1, "duplicate_id": 1, "empty_text": 1}
    assert (report.record.accepted, report.record.refused, len(report.examples)) == (2, 5, 5)


def test_the_first_usable_row_of_an_id_counts(tmp_path: Path, importer: Importer) -> None:
    rows: Rows = [{"sku": "b1", "title": ""}, DUNE, {"sku": "b1", "title": "late", "blurb": "x"}]
    importer(write_rows(tmp_path / "x.csv", "csv", rows))
    assert importer.refused == [(1, "b1", Reason.EMPTY_TEXT), (3, "b1", Reason.DUPLICATE_ID)]
    assert [item.texts["title"] for item in importer.store.items()] == ["Dune"]


def left_out(report: ImportReport) -> tuple[dict[str, int], list[str]]:
    """What an import left out, counted, and the lines that say so."""
    return report.record.left_out, [line for line in report.said if line.startswith("left out")]


@pytest.mark.parametrize(
    ("column", "value"),
    [("year", "soon"), ("year", "19.5"), ("year", "1_9"), ("price", "1e999"), ("used", "maybe")],
)
def test_wrong_types_in_csv_are_left_out_and_counted(
    column: str, value: str, tmp_path: Path, importer: Importer
) -> None:
    report = importer(write_rows(tmp_path / "x.csv", "csv", [DUNE, {**EMMA, column: value}]))
    counts, lines = left_out(report)
    assert (counts, importer.refused) == ({column: 1}, [])
    assert lines[0].startswith(f"left out 1 values of {column}, the first: {column} is {value!r}: expected ")
    item = importer.store.get("b2")
    assert item is not None
    assert column not in item.attributes


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("year", 19.5),
        ("year", True),
        ("year", 2**63),
        ("price", False),
        ("used", 2),
        ("tags", 5),
        ("tags", [1, ["a"]]),
    ],
)
def test_wrong_types_in_jsonl_are_left_out_and_counted(
    column: str, value: object, tmp_path: Path, importer: Importer
) -> None:
    report = importer(write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}, {**EMMA, column: value}]))
    counts, lines = left_out(report)
    assert (counts, importer.refused) == ({column: 1}, [])
    assert lines[0].startswith(f"left out 1 values of {column}, the first: {column} is {value!r}: expected ")


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("year", "1965", 1965),
        ("year", "1965.0", 1965),
        ("year", "1,965", 1965),
        ("year", "2e3", 2000),
        ("price", "9.5", 9.5),
        ("used", 1, True),
        ("used", "n", False),
        ("tags", "['a', 'b']", ["a", "b"]),
        ("tags", '["a", "b"]', ["a", "b"]),
    ],
)
def test_numbers_and_lists_as_strings_in_jsonl(
    column: str, value: object, expected: object, tmp_path: Path, importer: Importer
) -> None:
    importer(write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}, {**EMMA, column: value}]))
    item = importer.store.get("b2")
    assert item is not None
    assert item.attributes == {column: expected}


def test_a_title_that_is_a_number_is_its_text(tmp_path: Path, importer: Importer) -> None:
    importer(write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}, {**EMMA, "title": 1984}]))
    item = importer.store.get("b2")
    assert item is not None
    assert item.texts["title"] == "1984"


@pytest.mark.parametrize(("column", "value"), [("title", {"en": "x"}), ("title", ["x", 3])])
def test_wrong_texts_in_jsonl(column: str, value: object, tmp_path: Path, importer: Importer) -> None:
    importer(write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}, {**EMMA, column: value}]))
    assert importer.refused == [(2, "b2", Reason.WRONG_TYPE)]
    assert importer.refusals[0].detail.startswith(f"{column} is {value!r}: expected ")


@pytest.mark.parametrize("value", [True, 1.5, [1], {"a": 1}])
def test_an_id_is_a_string_or_an_integer(value: object, tmp_path: Path, importer: Importer) -> None:
    importer(write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}, {**EMMA, "sku": value}]))
    assert importer.refused == [(2, None, Reason.WRONG_TYPE)]


def test_wrong_types_in_parquet(tmp_path: Path, importer: Importer) -> None:
    table = pa.table({"id": ["a", "b", "c"], "title": ["x", "y", "z"], "year": [1.0, 1.5, None], "n": [0.5, 1.0, 2.0]})
    pq.write_table(table, tmp_path / "x.parquet")
    report = importer(tmp_path / "x.parquet", mapping_from_options(texts=["title"], attributes=["year:int"]))
    assert (report.record.left_out, importer.refused) == ({"year": 1}, [])
    assert [item.attributes for item in importer.store.items()] == [{"year": 1}, {}, {}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "a", "title": ', Reason.MALFORMED),
        (b'["a", "b"]', Reason.MALFORMED),
        (b"null", Reason.MALFORMED),
        (b'{"id": "a", "title": nan}', Reason.MALFORMED),
        (b'{"a": ' + b"[" * 100_000, Reason.MALFORMED),
        (b'{"id": "a", "title": "\\ud800"}', Reason.MALFORMED),
        (b'{"id": "a", "title": "\xff"}', Reason.INVALID_TEXT),
        (b'{"id": "a", "title": "\xed\xa0\x80"}', Reason.INVALID_TEXT),
    ],
)
def test_malformed_lines(line: bytes, reason: Reason, tmp_path: Path, importer: Importer) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"id": "1", "title": "x"}\n' + line + b'\n{"id": "2", "title": "x"}\n')
    importer(tmp_path / "x.jsonl", mapping_from_options(texts=["title"]))
    assert importer.refused == [(2, None, reason)]
    assert importer.store.count() == 2


@pytest.mark.parametrize(
    ("line", "reason", "row_id"),
    [
        (b"a,b,c", Reason.MALFORMED, None),
        (b"a", Reason.MALFORMED, None),
        (b'a,"x"y', Reason.MALFORMED, None),
        (b"a," + b"x" * 200_000, Reason.MALFORMED, None),
        (b"a,\xff", Reason.INVALID_TEXT, "a"),
        (b"\xff,a", Reason.INVALID_TEXT, None),
    ],
)
def test_malformed_records(line: bytes, reason: Reason, row_id: str | None, tmp_path: Path, importer: Importer) -> None:
    (tmp_path / "x.csv").write_bytes(b"id,title\n1,x\n" + line + b"\n2,x\n")
    mapping = msgspec.structs.replace(mapping_from_options(texts=["title"]), read=ReadOptions(encoding="utf-8"))
    importer(tmp_path / "x.csv", mapping)
    assert importer.refused == [(2, row_id, reason)]
    assert importer.store.count() == 2


def test_a_quote_that_never_ends_is_refused_and_not_lost(tmp_path: Path, importer: Importer) -> None:
    (tmp_path / "x.csv").write_bytes(b'id,title\n1,x\n2,"never\n3,x\n')
    importer(tmp_path / "x.csv", mapping_from_options(texts=["title"]))
    assert importer.refused == [(2, None, Reason.MALFORMED)]
    assert "a quote opens in line 3 and is not closed" in importer.refusals[0].detail
    assert [item.id for item in importer.store.items()] == ["1", "3"]


def test_parquet_text_that_is_not_utf8(tmp_path: Path, importer: Importer) -> None:
    bad = pa.array([b"x", b"\xff\xfe", b"y"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"id": ["1", "2", "3"], "title": bad}), tmp_path / "x.parquet")
    importer(tmp_path / "x.parquet", mapping_from_options(texts=["title"]))
    assert importer.refused == [(2, None, Reason.INVALID_TEXT)]
    assert [item.id for item in importer.store.items()] == ["1", "3"]


def test_parquet_is_read_in_batches_in_order(tmp_path: Path, importer: Importer) -> None:
    ids = [str(number) for number in range(2500)]
    pq.write_table(pa.table({"id": ids, "title": ids}), tmp_path / "x.parquet", row_group_size=700)
    importer(tmp_path / "x.parquet", mapping_from_options(texts=["title"]))
    assert [item.id for item in importer.store.items()] == ids


@pytest.mark.parametrize(
    ("type_", "value", "expected"),
    [
        ("int", 3.0, 3),
        ("float", 3, 3.0),
        ("float", Decimal("9.90"), 9.9),
        ("str", datetime.date(1999, 3, 31), "1999-03-31"),
        ("str", "  x ", "x"),
        ("list", "a; b;;", ["a", "b"]),
        ("list", ["a", " "], ["a"]),
        ("bool", True, True),
        ("place", [48, 2.5], [48.0, 2.5]),
    ],
)
def test_values_of_typed_sources(type_: ValueType, value: object, expected: object) -> None:
    mapping = validated(FieldMapping(texts={"t": TextField()}, attributes={"v": AttributeField(type=type_)}))
    item = RowConverter(mapping)({"id": "1", "t": "x", "v": value})
    assert item.attributes == {"v": expected}
    assert type(item.attributes["v"]) is type(expected)


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("int", " -3 ", -3),
        ("int", str(-(2**63)), -(2**63)),
        ("float", "1e3", 1000.0),
        ("float", ".5", 0.5),
        ("bool", "YES", True),
        ("bool", "0", False),
        ("str", "7", "7"),
        ("place", "48.85, -2", [48.85, -2.0]),
    ],
)
def test_values_of_textual_sources(type_: ValueType, text: str, expected: object) -> None:
    mapping = validated(FieldMapping(texts={"t": TextField()}, attributes={"v": AttributeField(type=type_)}))
    item = RowConverter(mapping)({"id": "1", "t": "x", "v": text})
    assert item.attributes == {"v": expected}


@pytest.mark.parametrize(
    "value", ["91,0", "1", "1;2", "1,2,3", "nan,1", "1e999,1", [1, 181], [1], [True, 2], ["1", "2"], 5]
)
def test_what_is_no_place(value: object) -> None:
    mapping = validated(FieldMapping(texts={"t": TextField()}, attributes={"v": AttributeField(type="place")}))
    convert = RowConverter(mapping)
    assert convert({"id": "1", "t": "x", "v": value}).attributes == {}
    assert convert.left_out == {"v": 1}
    assert convert.first == {"v": f"v is {value!r}: expected a place, latitude and longitude in degrees"}


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.decimals(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(COLUMNS), cells), st.booleans())
def test_any_row_is_an_item_that_can_be_stored_or_a_refusal(row: dict[str, Any], is_text: bool) -> None:
    if is_text:
        row = {name: str(value) for name, value in row.items()}
    try:
        item = RowConverter(BOOKS)(row)
    except RowError as error:
        msgspec.json.encode(Refusal(1, error.item_id, error.reason, error.detail))
    else:
        assert 1 <= len(item.id) <= 512
        assert any(item.texts.values())
        assert msgspec.json.decode(msgspec.json.encode(item), type=StoredItem) == item
