"""Import: every row becomes an item or is refused, named and counted; and the command around it."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from recserve_export.catalogue_import import ImportReport, import_catalogue, mapping_hash, up_to_date
from recserve_export.catalogue_readers import FileFormat, checksum, open_source
from recserve_export.catalogue_rows import Reason, Refusal, RowConverter, RowError
from recserve_export.cli_catalogue import app
from recserve_export.errors import MappingError, SourceError
from recserve_export.field_mapping import (
    AttributeField,
    AttributeType,
    FieldMapping,
    TextField,
    mapping_from_options,
    read_mapping,
    validated,
)
from recserve_export.films import MAPPING, FilmsSource, films_path
from recserve_server_ext.catalogue_store import CatalogueStore, StoredItem

FORMATS: tuple[FileFormat, ...] = ("jsonl", "csv", "parquet")
BOOKS = mapping_from_options(
    id_field="sku", texts=["title=2.0", "blurb"], attributes=["year:int", "tags:list", "price:float", "used:bool"]
)
COLUMNS = ("sku", "title", "blurb", "year", "tags", "price", "used")
DUNE = {"sku": "b1", "title": "Dune", "year": 1965, "tags": ["sand", "worms"], "price": 9.5, "used": False}
EMMA = {"sku": "b2", "title": "Emma", "blurb": "Handsome, clever and rich"}

Rows = list[dict[str, Any]]


def write_rows(path: Path, file_format: FileFormat, rows: Rows) -> Path:
    """Write the same rows in any of the formats; a column that a row lacks is empty there."""
    if file_format == "jsonl":
        path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    elif file_format == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows:
                writer.writerow({name: ";".join(v) if isinstance(v, list) else v for name, v in row.items()})
    else:
        pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in COLUMNS}), path)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CatalogueStore]:
    with CatalogueStore(tmp_path / "catalogue.db", create=True) as store:
        yield store


class Importer:
    """Imports files into the store and keeps every refusal."""

    def __init__(self, store: CatalogueStore) -> None:
        self.store = store
        self.refusals: list[Refusal] = []

    def __call__(self, path: Path, mapping: FieldMapping = BOOKS) -> ImportReport:
        source = open_source(path, mapping)
        return import_catalogue(
            self.store, source, mapping, name=path.name, sha256=checksum(path), on_refusal=self.refusals.append
        )

    @property
    def refused(self) -> list[tuple[int, str | None, Reason]]:
        return [(refusal.row, refusal.id, refusal.reason) for refusal in self.refusals]


@pytest.fixture
def importer(store: CatalogueStore) -> Importer:
    return Importer(store)


# Rows that become items.


@pytest.mark.parametrize("file_format", FORMATS)
def test_rows_become_items(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    path = write_rows(tmp_path / f"books.{file_format}", file_format, [{"blurb": "", **DUNE}, EMMA])
    report = importer(path)
    attributes = {name: DUNE[name] for name in ("year", "tags", "price", "used")}
    assert list(importer.store.items()) == [
        StoredItem("b1", {"title": "Dune"}, attributes),
        StoredItem("b2", {"title": "Emma", "blurb": EMMA["blurb"]}, {}),
    ]
    assert importer.store.head().field_weights == {"title": 2.0, "blurb": 1.0}
    assert (report.revision, report.is_changed, importer.refusals) == (1, True, [])
    assert importer.store.source() == report.record
    assert (report.record.name, report.record.accepted, report.record.sha256) == (path.name, 2, checksum(path))


def test_jsonl_with_bom_and_blank_lines(tmp_path: Path, importer: Importer) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 7, "title": ["a", " b "]}\r\n\n   \n{"id": "8", "title": "c"}')
    importer(path, mapping_from_options(texts=["title"]))
    assert [(item.id, item.texts) for item in importer.store.items()] == [
        ("7", {"title": "a, b"}),
        ("8", {"title": "c"}),
    ]


def test_csv_with_bom_and_quoted_line_breaks(tmp_path: Path, importer: Importer) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeffid,title\r\n1,"a ""b""\nc, d"\r\n\r\n2,é\r\n'.encode())
    importer(path, mapping_from_options(texts=["title"]))
    assert [item.texts["title"] for item in importer.store.items()] == ['a "b"\nc, d', "é"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_available_comes_from_its_column(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    mapping = mapping_from_options(id_field="sku", texts=["title"], available="used")
    rows: Rows = [{"sku": "a", "title": "x", "used": True}, {"sku": "b", "title": "x", "used": False}]
    importer(write_rows(tmp_path / f"x.{file_format}", file_format, [*rows, {"sku": "c", "title": "x"}]), mapping)
    assert [item.available for item in importer.store.items()] == [True, False, True]


# Rows that are refused.


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


@pytest.mark.parametrize(
    ("column", "value"),
    [("year", "soon"), ("year", "19.5"), ("year", "1_9"), ("price", "nan"), ("price", "1e999"), ("used", "maybe")],
)
def test_wrong_types_in_csv(column: str, value: str, tmp_path: Path, importer: Importer) -> None:
    importer(write_rows(tmp_path / "x.csv", "csv", [DUNE, {**EMMA, column: value}]))
    assert importer.refused == [(2, "b2", Reason.WRONG_TYPE)]
    assert importer.refusals[0].detail.startswith(f"{column} is {value!r}: expected ")


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("year", "1965"),
        ("year", 19.5),
        ("year", True),
        ("year", 2**63),
        ("price", "9.5"),
        ("price", False),
        ("used", 1),
        ("tags", 5),
        ("tags", [1, 2]),
        ("title", 1984),
        ("title", {"en": "x"}),
        ("title", ["x", 3]),
    ],
)
def test_wrong_types_in_jsonl(column: str, value: object, tmp_path: Path, importer: Importer) -> None:
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
    importer(tmp_path / "x.parquet", mapping_from_options(texts=["title"], attributes=["year:int"]))
    assert importer.refused == [(2, "b", Reason.WRONG_TYPE)]
    assert [item.attributes for item in importer.store.items()] == [{"year": 1}, {}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "a", "title": ', Reason.MALFORMED),
        (b'["a", "b"]', Reason.MALFORMED),
        (b"null", Reason.MALFORMED),
        (b'{"id": "a", "title": NaN}', Reason.MALFORMED),
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
    importer(tmp_path / "x.csv", mapping_from_options(texts=["title"]))
    assert importer.refused == [(2, row_id, reason)]
    assert importer.store.count() == 2


def test_a_quote_that_never_ends_is_refused_and_not_lost(tmp_path: Path, importer: Importer) -> None:
    (tmp_path / "x.csv").write_bytes(b'id,title\n1,x\n2,"never\n3,x\n')
    importer(tmp_path / "x.csv", mapping_from_options(texts=["title"]))
    assert importer.refused == [(2, None, Reason.MALFORMED)]
    assert "unexpected end of data" in importer.refusals[0].detail


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


# Values.


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
    ],
)
def test_values_of_typed_sources(type_: AttributeType, value: object, expected: object) -> None:
    mapping = validated(FieldMapping(texts={"t": TextField()}, attributes={"v": AttributeField(type=type_)}))
    item = RowConverter(mapping, is_textual=False)({"id": "1", "t": "x", "v": value})
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
    ],
)
def test_values_of_textual_sources(type_: AttributeType, text: str, expected: object) -> None:
    mapping = validated(FieldMapping(texts={"t": TextField()}, attributes={"v": AttributeField(type=type_)}))
    item = RowConverter(mapping, is_textual=True)({"id": "1", "t": "x", "v": text})
    assert item.attributes == {"v": expected}


cells = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.decimals(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from(COLUMNS), cells), st.booleans())
def test_any_row_is_an_item_that_can_be_stored_or_a_refusal(row: dict[str, Any], is_textual: bool) -> None:
    if is_textual:
        row = {name: str(value) for name, value in row.items()}
    try:
        item = RowConverter(BOOKS, is_textual=is_textual)(row)
    except RowError as error:
        msgspec.json.encode(Refusal(1, error.item_id, error.reason, error.detail))
    else:
        assert 1 <= len(item.id) <= 512
        assert any(item.texts.values())
        assert msgspec.json.decode(msgspec.json.encode(item), type=StoredItem) == item


# What fails as a whole leaves the old catalogue.


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_unknown_column_names_the_nearest(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    path = write_rows(tmp_path / f"x.{file_format}", file_format, [{**DUNE, "blurb": "b"}])
    importer(path)
    mapping = mapping_from_options(id_field="sku", texts=["title"], attributes=["yeer:int"])
    with pytest.raises(MappingError, match="no column 'yeer'; did you mean 'year'"):
        importer(path, mapping)
    assert (importer.store.revision, importer.store.count()) == (1, 1)


@pytest.mark.parametrize("file_format", FORMATS)
def test_nothing_accepted_leaves_the_old_catalogue(file_format: FileFormat, tmp_path: Path, importer: Importer) -> None:
    importer(write_rows(tmp_path / f"x.{file_format}", file_format, [{**DUNE, "blurb": "b"}]))
    report = importer(write_rows(tmp_path / f"y.{file_format}", file_format, [{**DUNE, "sku": "", "blurb": "b"}]))
    assert (report.is_changed, report.revision, report.record.refused) == (False, 1, 1)
    assert [item.id for item in importer.store.items()] == ["b1"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "no header line"),
        ("x.csv", b"id,title,id\n", "column 'id' twice"),
        ("x.csv", b"id,titl\xff\n", "header line of .* cannot be read"),
        ("x.parquet", b"PAR1 not really", "cannot be read"),
        ("x.txt", b"", "does not tell its format; add --format"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes, message: str, tmp_path: Path, importer: Importer) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        importer(tmp_path / name, mapping_from_options(texts=["title"]))
    assert importer.store.revision == 0


def test_a_parquet_file_cut_short_after_its_start_is_an_error(tmp_path: Path, importer: Importer) -> None:
    ids = [f"{number:032x}" for number in range(5000)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"id": ids, "title": ids}), path, row_group_size=1000, use_dictionary=False)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4000] = b"\xff" * 4000
    path.write_bytes(content)
    with pytest.raises(SourceError, match="cannot be read"):
        importer(path, mapping_from_options(texts=["title"]))
    assert importer.store.revision == 0


# Mappings.


def test_a_mapping_file_says_the_same_as_options(tmp_path: Path) -> None:
    path = tmp_path / "books.toml"
    path.write_text(
        'id = "sku"\navailable = "used"\n[texts]\ntitle = {column = "name", weight = 2.0}\nblurb = {}\n'
        '[attributes]\nyear = {column = "y", type = "int", separator = "|"}\ntags = {type = "list", separator = "|"}\n'
    )
    assert read_mapping(path) == mapping_from_options(
        id_field="sku",
        texts=["title=2", "blurb"],
        attributes=["year:int", "tags:list"],
        columns=["title=name", "year=y"],
        separator="|",
        available="used",
    )
    assert read_mapping(path).columns == ("sku", "name", "blurb", "y", "tags", "used")
    assert read_mapping(path).field_weights == {"title": 2.0, "blurb": 1.0}


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("id = [", "cannot be read"),
        ('id = "x"', "missing required field `texts`"),
        ("texts = {}", "no text field"),
        ("texts = {title = {wait = 2}}", "unknown field `wait`"),
        ("texts = {title = {weight = -1}}", "weight of text field 'title' is -1"),
        ("texts = {title = {weight = inf}}", "weight of text field 'title' is inf"),
        ('texts = {t = {}}\nattributes = {year = {type = "integer"}}', r"\$\.attributes\[...\]\.type"),
        ('texts = {t = {}}\nattributes = {tags = {separator = ""}}', "separator of attribute 'tags' is empty"),
        ('id = ""\ntexts = {t = {}}', "empty"),
    ],
)
def test_wrong_mapping_files(toml: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(toml)
    with pytest.raises(MappingError, match=message):
        read_mapping(tmp_path / "m.toml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no text field"),
        ({"texts": ["title=heavy"]}, "'heavy' is no number"),
        ({"texts": ["title", "title=2"]}, "named twice"),
        ({"texts": ["t"], "attributes": ["year:intt"]}, "no type 'intt'; did you mean 'int'"),
        ({"texts": ["title"], "columns": ["titel=name"]}, "'titel'.*; did you mean 'title'"),
        ({"texts": ["title"], "columns": ["title"]}, "write NAME=COLUMN"),
    ],
)
def test_wrong_mapping_options(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        mapping_from_options(**options)  # type: ignore[arg-type]  # a table of keyword arguments


@pytest.mark.parametrize(
    "change",
    [{"texts": ["title=2"]}, {"attributes": ["year"]}, {"separator": "|"}, {"columns": ["title=t"]}, {"id_field": "x"}],
)
def test_the_hash_of_a_mapping_tells_every_change(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"texts": ["title"], "attributes": ["year:int"]}
    assert mapping_from_options(**base).sha256 == mapping_from_options(**base).sha256
    assert mapping_from_options(**base).sha256 != mapping_from_options(**(base | change)).sha256


def test_up_to_date_by_file_mapping_and_format(tmp_path: Path, importer: Importer) -> None:
    path = write_rows(tmp_path / "x.jsonl", "jsonl", [{"blurb": "", **DUNE}])
    assert up_to_date(importer.store, "jsonl", BOOKS, checksum(path)) is None
    record = importer(path).record
    assert up_to_date(importer.store, "jsonl", BOOKS, checksum(path)) == record
    assert up_to_date(importer.store, "csv", BOOKS, checksum(path)) is None
    assert up_to_date(importer.store, "jsonl", mapping_from_options(texts=["title"]), checksum(path)) is None
    assert up_to_date(importer.store, "jsonl", BOOKS, "0" * 64) is None
    assert record.mapping_sha256 == mapping_hash("jsonl", BOOKS)


# The films.


@pytest.mark.realdata
def test_the_films(importer: Importer) -> None:
    path = films_path()
    mapping = validated(MAPPING)
    report = import_catalogue(
        importer.store,
        FilmsSource(path),
        mapping,
        name="films",
        sha256=checksum(path),
        on_refusal=importer.refusals.append,
    )
    assert (report.record.accepted, report.record.refusals) == (17_470, {"duplicate_id": 2})
    assert importer.refused == [
        (12588, "tt0078788", Reason.DUPLICATE_ID),
        (13460, "tt0850669", Reason.DUPLICATE_ID),
    ]
    film = importer.store.get("tt0076759")
    assert film is not None
    assert film.texts["title"].startswith("Star Wars")
    assert film.texts["cast"].count(",") == 5
    assert len(film.attributes["cast"]) == 24
    assert (film.attributes["year"], film.attributes["genre"]) == (1977, ["Sci-Fi", "Action", "Adventure"])


# The command.

Command = Callable[..., Any]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    def run(*arguments: str | Path) -> Any:
        return CliRunner().invoke(app, [*map(str, arguments), "--home", str(tmp_path / "home")])

    return run


@pytest.fixture
def books(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "books.jsonl", "jsonl", [{"blurb": "", **DUNE}, EMMA, {"sku": "b1", "title": "Dune"}])


OPTIONS = ("--id-field", "sku", "--text", "title=2.0", "--text", "blurb", "--attribute", "year:int")


def test_command_import_then_up_to_date_then_forced(command: Command, books: Path, tmp_path: Path) -> None:
    refusals = tmp_path / "refusals.jsonl"
    first = command("import", books, *OPTIONS, "--refusals", refusals)
    assert first.exit_code == 0, first.output
    assert "accepted 2 items of books.jsonl, refused 1 (revision 1)" in first.stdout
    assert "duplicate_id" in first.stdout
    assert "row 1 has this id already" in first.stdout
    assert [json.loads(line) for line in refusals.read_text().splitlines()] == [
        {"row": 3, "id": "b1", "reason": "duplicate_id", "detail": "row 1 has this id already"}
    ]
    again = command("import", books, *OPTIONS)
    assert (again.exit_code, again.stdout) == (0, "up to date (revision 1): 2 items of books.jsonl\n")
    assert "--force" in again.stderr
    assert "(revision 2)" in command("import", books, *OPTIONS, "--force").stdout
    assert "(revision 3)" in command("import", books, *OPTIONS, "--attribute", "price:float").stdout


def test_command_import_with_a_mapping_file_and_format(command: Command, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text('id = "sku"\n[texts]\ntitle = {}\n')
    path = write_rows(tmp_path / "books.txt", "csv", [DUNE])
    result = command("import", path, "--mapping", tmp_path / "m.toml", "--format", "csv")
    assert (result.exit_code, "accepted 1 items" in result.stdout) == (0, True), result.output


def test_command_says_when_nothing_was_accepted(command: Command, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", "jsonl", [{"sku": "", "title": "x"}])
    result = command("import", path, "--id-field", "sku", "--text", "title")
    assert result.exit_code == 1
    assert "missing_id" in result.stdout
    assert "nothing was accepted" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "gone.jsonl", "--text", "title"), "no file gone.jsonl"),
        (("import", "gone.jsonl"), "no text field"),
        (("import", "films", "--text", "title"), "films has its own field mapping"),
        (("import", "x.csv", "--mapping", "m.toml", "--text", "a"), "--mapping m.toml holds the whole mapping"),
        (("import", "x.csv", "--mapping", "gone.toml"), "gone.toml cannot be read"),
        (("stats",), "recserve catalogue import"),
        (("show", "x"), "recserve catalogue import"),
    ],
)
def test_command_errors_are_one_line(command: Command, arguments: tuple[str, ...], message: str) -> None:
    result = command(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_command_errors_create_no_catalogue(command: Command, tmp_path: Path) -> None:
    command("import", "gone.jsonl", "--text", "title")
    assert not (tmp_path / "home").exists()


def test_command_names_a_refusals_file_that_cannot_be_written(command: Command, books: Path, tmp_path: Path) -> None:
    result = command("import", books, *OPTIONS, "--refusals", tmp_path / "no" / "refusals.jsonl")
    assert result.exit_code == 1
    assert "refusals cannot be written" in result.stderr


def test_command_stats(command: Command, books: Path) -> None:
    command("import", books, *OPTIONS)
    plain = command("stats")
    assert plain.exit_code == 0, plain.output
    assert "2 items (2 available), revision 1" in plain.stdout
    assert "accepted 2, refused 1 (1 duplicate_id)" in plain.stdout
    found = json.loads(command("stats", "--json").stdout)
    assert found["texts"]["title"] == {"weight": 2.0, "items": 2, "mean_characters": 4.0}
    assert found["texts"]["blurb"]["items"] == 1
    assert found["attributes"] == {"year": {"items": 1, "types": ["int"]}}


def test_command_show(command: Command, books: Path) -> None:
    command("import", books, *OPTIONS)
    plain = command("show", "b1")
    assert (plain.exit_code, "Dune" in plain.stdout, "1965" in plain.stdout) == (0, True, True)
    assert json.loads(command("show", "b1", "--json").stdout)["attributes"] == {"year": 1965}
    missing = command("show", "b9")
    assert missing.exit_code == 1
    assert "no item 'b9' among the 2" in missing.stderr


def test_command_keeps_terminal_controls_and_markup_of_a_source_out(command: Command, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", "jsonl", [{"id": "a", "title": "\x1b[2J[red]x"}])
    command("import", path, "--text", "title")
    assert "\\x1b[2J[red]x" in command("show", "a").stdout


@pytest.mark.parametrize("name", [(), ("import",), ("stats",), ("show",)])
def test_command_help(name: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, [*name, "--help"])
    assert result.exit_code == 0
    assert "catalogue" in result.stdout or "item" in result.stdout


@pytest.mark.realdata
def test_command_imports_the_films(command: Command) -> None:
    result = command("import", "films")
    assert "accepted 17,470 items of films, refused 2 (revision 1)" in result.stdout
    assert "up to date (revision 1)" in command("import", "films").stdout


@pytest.mark.parametrize("file_format", FORMATS)
def test_sources_are_read_as_a_stream(file_format: FileFormat, tmp_path: Path) -> None:
    rows: Rows = [{"sku": str(number), "title": "x" * 50} for number in range(5000)]
    path = write_rows(tmp_path / f"x.{file_format}", file_format, rows)
    source = open_source(path, mapping_from_options(id_field="sku", texts=["title"]))
    reading = source.rows()
    next(reading)
    assert 0 < source.done < source.total / 10
    assert sum(1 for _ in reading) == 4999
    assert source.done == source.total
