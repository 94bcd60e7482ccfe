"""Neighbours of the cases that failed: encodings, numbers, times, ids, archives and lists as people have them."""

from __future__ import annotations

import gzip
import json
import sqlite3
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from typer.testing import CliRunner, Result

from recserve_export.cli.catalogue.commands import app as catalogue_app
from recserve_export.cli.interactions import app as interactions_app
from recserve_export.errors import SourceError
from recserve_export.tabular.formats.documents import JsonSource
from recserve_export.tabular.formats.lines import MAX_LINE
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import AllColumns
from recserve_export.tabular.streams import Stream
from recserve_export.tabular.values import guess_decimal, list_in, number_in
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore

Read = tuple[Result, list[tuple[str, dict[str, str], dict[str, Any]]]]
Import = Callable[..., Read]


@pytest.fixture
def items(tmp_path: Path) -> Import:
    """Imports a catalogue with the text field `title`; the result of the command, and the items."""

    def imported(source: object, *options: str) -> Read:
        home = tmp_path / "home"
        arguments = ["import", str(source), "--home", str(home), "--text", "title", *options]
        result = CliRunner().invoke(catalogue_app, arguments)
        if not (home / "catalogue.db").exists():
            return result, []
        with CatalogueStore(home / "catalogue.db") as store:
            return result, [(item.id, item.texts, item.attributes) for item in store.items()]

    return imported


def logged(source: Path, home: Path, *options: str) -> tuple[Result, list[dict[str, Any]]]:
    result = CliRunner().invoke(interactions_app, ["import", str(source), "--home", str(home), *options])
    with InteractionStore(home / "interactions.db") as store, store.all() as rows:
        return result, list(rows)


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "6b" * 32)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("title", ["Café für Żółw", "Война и мир", "紅樓夢"])
def test_wide_encodings_without_a_mark(encoding: str, title: str, items: Import, tmp_path: Path) -> None:
    text = "id,title\n" + "".join(f"{number},{title}\n" for number in range(20))
    result, found = items(written(tmp_path / "x.csv", text.encode(encoding)))
    assert f"read as: {encoding}, ','" in result.output
    assert [texts for _, texts, _ in found] == [{"title": title}] * 20


@pytest.mark.parametrize(
    ("text", "decimal", "number"),
    [
        ("3,5", "", 3.5),
        ("12,99", "", 12.99),
        ("1.234,56", "", 1234.56),
        ("1,234.56", "", 1234.56),
        ("1,999", "", 1999),
        ("1,999", ",", 1.999),
        ("1.999", "", 1.999),
        ("1.999", ",", 1999),
        ("1 999", "", 1999),
        ("1\u202f999,5", "", 1999.5),
        ("1\u00a0999\u00a0000", "", 1_999_000),
        ("1'999.50", "", 1999.5),
        ("2e3", ",", 2000),
        ("1 99", "", None),
        ("1,2,3", "", None),
        ("1.2.3", "", None),
        ("1_000", "", None),
        (",", "", None),
    ],
)
def test_numbers(text: str, decimal: str, number: float | None) -> None:
    assert number_in(text, decimal) == number


@pytest.mark.parametrize(
    ("values", "decimal"),
    [(["1,5", "1,999"], ","), (["1,999", "2"], ""), (["1,5", "2.5"], ""), (["1.5"], ""), ([1.5, None, ""], "")],
)
def test_decimal_commas_are_a_matter_of_the_column(values: list[object], decimal: str) -> None:
    assert guess_decimal(values) == decimal


def test_decimal_commas_are_said(items: Import, tmp_path: Path) -> None:
    euros = "id;title;price\n1;Café €;1,999\n2;b;2,5\n".encode("cp1252")
    result, found = items(written(tmp_path / "x.csv", euros), "--attribute", "price:float")
    assert "numbers of price have a decimal comma" in result.output
    assert [attributes for *_, attributes in found] == [{"price": 1.999}, {"price": 2.5}]
    assert found[0][1] == {"title": "Café €"}
    ratings = written(tmp_path / "log.csv", "user_id;item_id;timestamp;stars\nu;1;1700000000;4,5\nu;2;1700000001;3\n")
    result, rows = logged(ratings, tmp_path / "log", "--type", "rating", "--field", "value=stars")
    assert "numbers of stars have a decimal comma" in result.output
    assert sorted(row["value"] for row in rows) == [3.0, 4.5]


def test_space_around_ids_is_no_part_of_them(items: Import, tmp_path: Path) -> None:
    text = 'id,title\n 1 ,a\n"2 ",b\n\t3,c\n\u00a04,d\n\ufeff5\u200b,e\n\u200b,f\n'
    result, found = items(written(tmp_path / "x.csv", text))
    assert [name for name, *_ in found] == ["1", "2", "3", "4", "5"]
    assert "missing_id" in result.output
    log = written(tmp_path / "log.csv", "user_id,item_id,timestamp\nu , 1 ,1700000000\nu,1,1700000001\n")
    _, rows = logged(log, tmp_path / "log", "--type", "view")
    assert [row["item"] for row in rows] == ["1", "1"]
    assert len({row["user"] for row in rows}) == 1


def test_json_keeps_ids_as_they_are(items: Import, tmp_path: Path) -> None:
    _, found = items(written(tmp_path / "x.jsonl", '{"id": " 1 ", "title": "a"}\n{"id": "\u200b", "title": "b"}\n'))
    assert [name for name, *_ in found] == [" 1 "]


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_nan_and_infinity_are_missing_values(ending: str, items: Import, tmp_path: Path) -> None:
    rows = [
        {"id": 1, "title": "NaN and -Infinity", "price": float("nan")},
        {"id": 2, "title": 'a "quoted" Infinity', "price": float("-inf")},
        {"id": 3, "title": "c", "price": 1.5},
    ]
    text = json.dumps(rows) if ending == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    _, found = items(written(tmp_path / f"x.{ending}", text), "--attribute", "price:float")
    assert [(texts["title"], attributes) for _, texts, attributes in found] == [
        ("NaN and -Infinity", {}),
        ('a "quoted" Infinity', {}),
        ("c", {"price": 1.5}),
    ]


def test_nan_across_the_chunks_of_an_array(tmp_path: Path) -> None:
    rows = [
        {"id": number, "text": "\\" * (number % 7) + "N" * (number % 13), "x": float("nan")} for number in range(9999)
    ]
    stream = Stream(written(tmp_path / "x.json", json.dumps(rows)))
    read = [values for _, values in JsonSource(stream, AllColumns(), ReadOptions()).rows()]
    assert read == [{**row, "x": None} for row in rows]


def test_a_string_without_end_is_an_error(tmp_path: Path) -> None:
    stream = Stream(written(tmp_path / "x.json", '[{"id": 1}, {"id": "' + "x" * (2 * MAX_LINE)))
    with pytest.raises(SourceError, match="a string of more than"):
        list(JsonSource(stream, AllColumns(), ReadOptions()).rows())


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("('a', 'b')", ["a", "b"]),
        ("{'b', 'a'}", ["a", "b"]),
        ('{a,"b, c"}', ["a", "b, c"]),
        ("[1, 2]", ["1", "2"]),
        ("{}", []),
        ("a;b", ["a", "b"]),
    ],
)
def test_lists_as_one_string(text: str, parts: list[str]) -> None:
    assert list_in(text) == parts


def test_lists_of_numbers_and_of_objects(items: Import, tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": pa.array([2**53 + 1, 2], pa.int64()),
            "title": pa.array(["a", "b"]).dictionary_encode(),
            "tags": pa.array([[1, 2], None]),
            "genres": [[{"id": 5, "name": "Drama"}, {"id": 6, "name": None}], []],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    options = ("--attribute", "tags:list", "--attribute", "genre:list", "--map", "genre=genres.name")
    _, found = items(tmp_path / "x.parquet", *options)
    assert found == [
        ("9007199254740993", {"title": "a"}, {"tags": ["1", "2"], "genre": ["Drama"]}),
        ("2", {"title": "b"}, {}),
    ]


def test_frames_of_zstandard_that_are_passed_over(items: Import, tmp_path: Path) -> None:
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    frame = zstandard.ZstdCompressor().compress(b"id,title\n1,a\n")
    assert items(written(tmp_path / "x.zst", skipped + frame))[1] == [("1", {"title": "a"}, {})]


def test_archives_without_a_file_and_trailing_bytes(items: Import, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w"):
        pass
    assert "holds 0 files" in items(tmp_path / "x.zip")[0].output
    packed = gzip.compress(b"id,title\n1,a\n") + gzip.compress(b"2,b\n")
    assert len(items(written(tmp_path / "x.gz", packed + bytes(100)))[1]) == 2
    assert "cannot be read" in items(written(tmp_path / "y.gz", packed + b"junk"))[0].output


def test_queries_with_colons_and_comments(items: Import, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute('CREATE TABLE "my items" (id INTEGER, title TEXT)')
        connection.execute("INSERT INTO \"my items\" VALUES (1, 'a :b')")
        connection.execute('CREATE VIEW shown AS SELECT id, upper(title) AS title FROM "my items"')
    url = f"sqlite:///{tmp_path / 'x.db'}"
    query = "SELECT id, title, ':x' AS y FROM \"my items\" WHERE title LIKE '%:b' -- the b"
    assert items(url, "--query", query)[1] == [("1", {"title": "a :b"}, {})]
    assert items(url, "--query", "my items")[1] == [("1", {"title": "a :b"}, {})]
    assert items(tmp_path / "x.db", "--query", "shown")[1] == [("1", {"title": "A :B"}, {})]


@pytest.mark.parametrize(("kept", "liked"), [("True", "False"), ("true", "false"), ("1", "0")])
def test_thumbs_may_be_words(kept: str, liked: str, tmp_path: Path) -> None:
    text = f"user_id,item_id,timestamp,liked\nu,1,1700000000,{kept}\nu,2,1700000001,{liked}\n"
    result, rows = logged(written(tmp_path / "x.csv", text), tmp_path, "--type", "rating", "--field", "value=liked")
    assert "ratings are thumbs" in result.output
    assert [row["type"] for row in rows] == ["like", "dislike"]


def test_a_header_alone_has_no_rows(items: Import, tmp_path: Path) -> None:
    result, _ = items(written(tmp_path / "x.csv", "id,title\n"))
    assert (result.exit_code, "it has no rows" in result.output) == (1, True)
    result, _ = logged(written(tmp_path / "y.csv", "user_id,item_id,timestamp\n"), tmp_path, "--type", "view")
    assert (result.exit_code, "y.csv has no rows" in result.output) == (1, True)
