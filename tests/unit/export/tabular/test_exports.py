"""Tables as spreadsheets, shops and databases write them: money, titles above the header, typed JSON, wrong names."""

from __future__ import annotations

import gzip
import json
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from typer.testing import CliRunner, Result

from recserve_export.cli.catalogue.commands import app as catalogue_app
from recserve_export.cli.interactions import app as interactions_app
from recserve_export.errors import SourceError
from recserve_export.interactions.scale import rating_in
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import AllColumns, RowError
from recserve_export.tabular.values import amount_in, guess_decimal
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import KEY

HEADER = "user_id,item_id,timestamp"
ROWS = "u1,a,1700000000\nu2,b,1700000001\n"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())


def logged(tmp_path: Path, content: str | bytes, *options: str, name: str = "x.csv") -> tuple[Result, list[Any]]:
    """The result of an import, and what is recorded, by time."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    home = tmp_path / "home"
    done = CliRunner().invoke(interactions_app, ["import", str(path), "--home", str(home), *options])
    if not (home / "interactions.db").exists():
        return done, []
    with InteractionStore(home / "interactions.db") as store, store.all() as rows:
        return done, sorted(rows, key=lambda row: (row["timestamp"], row["item"]))


def read(path: Path, **options: Any) -> list[Any]:
    rows = list(Opened(path, ReadOptions(**options)).source(AllColumns()).rows())
    return [values.reason if isinstance(values, RowError) else values for _, values in rows]


@pytest.mark.parametrize(
    ("text", "decimal", "amount"),
    [
        ("$5.50", "", 5.5),
        ("-$5.50", "", -5.5),
        ("US$1,234.56", "", 1234.56),
        ("1.299,50 €", ",", 1299.5),
        ("1\u202f299,50\u00a0€", ",", 1299.5),
        ("EUR 7", "", 7),
        ("7 USD", "", 7),
        ("CHF 1'200.-", "", 1200),
        ("12,\u2013", ",", 12),
        ("300円", "", 300),
        ("\\1,200", "", 1200),
        ("Rs. 500", "", 500),
        ("99 kr", "", 99),
        ("R$ 12", "", 12),
        ("ABC123", "", None),
        ("12 apples", "", None),
        ("$", "", None),
        ("80%", "", None),
    ],
)
def test_amounts_of_money(text: str, decimal: str, amount: float | None) -> None:
    assert amount_in(text, decimal) == amount


def test_decimal_commas_beside_currencies() -> None:
    assert guess_decimal(["5,50 €", "1.299,00 €"]) == ","
    assert guess_decimal(["$5.50", "$1,299.00"]) == ""


def test_currencies_are_said(tmp_path: Path) -> None:
    text = f"{HEADER},price\nu,a,1700000000,$5.50\nu,b,1700000001,7 USD\n"
    done, rows = logged(tmp_path, text, "--type", "purchase", "--field", "price")
    assert [row["price"] for row in rows] == [5.5, 7]
    assert "price has amounts of money, whose currency is left out: $, USD" in done.stdout


def test_prices_of_a_catalogue(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('id,title,price\n1,A,"$1,299.00"\n2,B,$5\n')
    options = ["--home", str(tmp_path), "--text", "title", "--attribute", "price:float"]
    done = CliRunner().invoke(catalogue_app, ["import", str(tmp_path / "x.csv"), *options])
    assert "price has amounts of money, whose currency is left out: $" in done.stdout
    with CatalogueStore(tmp_path / "catalogue.db") as store:
        assert [item.attributes for item in store.items()] == [{"price": 1299.0}, {"price": 5.0}]


@pytest.mark.parametrize(
    ("above", "line"),
    [
        ("Report of 2024-03-01,,\n", 2),
        ("Exported by a shop\n\n", 3),
        ("# exported 2024\n# source: shop\n", 3),
        ("# ---\n# All users, all days\n\n", 4),
        ("sep=,\nReport\n", 3),
        ("\n", 2),
    ],
)
def test_titles_and_comments_above_the_header(above: str, line: int, tmp_path: Path) -> None:
    done, rows = logged(tmp_path, f"{above}{HEADER}\n{ROWS}", "--type", "click")
    assert [row["item"] for row in rows] == ["a", "b"]
    assert f"header in line {line}, 2 rows" in done.stdout


def test_a_preview_passes_titles_over(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for above in ("Exported by a shop\n\n", "# All users, all days\n\n", ""):
        path.write_text(f"{above}{HEADER}\n{ROWS}")
        assert [values["item_id"] for values in read(path)] == ["a", "b"]
    path.write_text("title\nHello, world\nMoon\n")
    assert [values["title"] for values in read(path)[1:]] == ["Moon"]


def test_lines_that_begin_with_a_hash(tmp_path: Path) -> None:
    done, rows = logged(tmp_path, f"#{HEADER}\n{ROWS}", "--type", "click")
    assert [row["item"] for row in rows] == ["a", "b"], done.output
    text = "# made by a shop\nu1,#1,1700000000\n#u2,#2,1700000001\n"
    _, rows = logged(tmp_path, text, "--type", "click", "--columns", HEADER)
    assert {row["item"] for row in rows} == {"a", "b", "#1", "#2"}


def test_a_title_above_the_header_of_a_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for cells in (["Report of March"], [], ["user_id", "item_id", "timestamp"], ["u1", "a", 1_700_000_000]):
        sheet.append(cells)
    book.save(tmp_path / "x.xlsx")
    _, rows = logged(tmp_path, (tmp_path / "x.xlsx").read_bytes(), "--type", "click", name="x.xlsx")
    assert [row["item"] for row in rows] == ["a"]


def test_line_ends_of_all_kinds_in_one_file(tmp_path: Path) -> None:
    text = f"{HEADER}\r\nu1,a,1700000000\nu1,b,1700000001\r\nu1,c,1700000002\ru1,d,1700000003\n"
    done, rows = logged(tmp_path, text, "--type", "click")
    assert [row["item"] for row in rows] == ["a", "b", "c", "d"]
    assert "refused 0" in done.stdout


@pytest.mark.parametrize("form", ["lines", "array", "pretty"])
def test_types_of_mongodb(form: str, tmp_path: Path) -> None:
    objects: list[dict[str, Any]] = [
        {
            "_id": {"$oid": "507f1f77bcf86cd799439011"},
            "user_id": {"$oid": "507f1f77bcf86cd799439012"},
            "item_id": {"$numberLong": "42"},
            "timestamp": {"$date": "2024-03-01T00:00:00.000Z"},
            "value": {"$numberDouble": "3.5"},
        },
        {
            "_id": {"$oid": "507f1f77bcf86cd799439013"},
            "user_id": "u",
            "item_id": {"$numberInt": "43"},
            "timestamp": {"$date": {"$numberLong": "1709251201000"}},
            "value": {"$numberDecimal": "4"},
        },
        {"_id": "3", "user_id": "u", "item_id": 44, "timestamp": {"$date": "yesterday"}, "value": 4},
        {"_id": "4", "user_id": "u", "item_id": {"$numberInt": "x"}, "timestamp": 1, "value": 4},
    ]
    text = {
        "lines": "".join(f"{json.dumps(one)}\n" for one in objects),
        "array": json.dumps(objects),
        "pretty": "".join(f"{json.dumps(one, indent=1)}\n" for one in objects),
    }[form]
    options = ["--type", "rating", "--field", "value", "--field", "event_id=_id"]
    done, rows = logged(tmp_path, text, *options, name="x.json")
    assert [(row["item"], row["value"], row["timestamp"]) for row in rows] == [
        ("42", 3.5, 1_709_251_200.0),
        ("43", 4.0, 1_709_251_201.0),
    ]
    assert rows[0]["event_id"] == "507f1f77bcf86cd799439011"
    assert "refused 2" in done.stdout


def test_paths_into_typed_values(tmp_path: Path) -> None:
    text = '{"user_id": {"$oid": "5a"}, "item_id": {"id": {"$oid": "5b"}}, "timestamp": 1}\n'
    options = ["--type", "click", "--user-field", "user_id.$oid", "--item-field", "item_id.id"]
    assert [row["item"] for row in logged(tmp_path, text, *options, name="x.jsonl")[1]] == ["5b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", b'{"id": "1", "title": "A"}\n{"id": "2", "title": "B"}\n'),
        ("x.csv", b'[{"id": "1", "title": "A"}, {"id": "2", "title": "B"}]'),
        ("x.jsonl", b'[{"id": "1", "title": "A"}, {"id": "2", "title": "B"}]'),
        ("x.jsonl", b'{"id": "1", "title": "A"},\n{"id": "2", "title": "B"}\n'),
        ("x.json", b'{\n "id": "1",\n "title": "A"\n}\n{\n "id": "2",\n "title": "B"\n}\n'),
        ("x.xls", b"id\ttitle\n1\tA\n2\tB\n"),
        ("u.item", b"id|title\n1|A\n2|B\n"),
        ("x.csv.gz", b"id,title\n1,A\n2,B\n"),
    ],
)
def test_content_counts_more_than_the_name(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    assert read(tmp_path / name) == [{"id": "1", "title": "A"}, {"id": "2", "title": "B"}]


def test_headings_in_brackets_are_no_json(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("[id],[title]\n1,A\n")
    assert read(tmp_path / "x.csv") == [{"[id]": "1", "[title]": "A"}]


def test_a_compressed_file_in_an_archive(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x.csv.gz", gzip.compress(b"id,title\n1,A\n"))
    assert read(tmp_path / "x.zip") == [{"id": "1", "title": "A"}]


def tar_of(name: str, content: bytes) -> bytes:
    made = BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, BytesIO(content))
    return made.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.tar", tar_of("x.csv", b"id\n1\n"), "an archive (tar)"),
        ("x.tar.gz", gzip.compress(tar_of("x.csv", b"id\n1\n"), mtime=0), "an archive (tar)"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c\0\4", "an archive (7z)"),
        ("x.xls", b"<html><table></table></html>", "a web page"),
        ("x.csv", b"\x89PNG\r\n\x1a\n", "a picture"),
    ],
    ids=["tar", "tar.gz", "7z", "html", "png"],
)
def test_files_without_a_table_are_named(name: str, content: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError) as caught:
        Opened(tmp_path / name)
    assert f"is {what}, which is not read" in str(caught.value)


def test_orders_of_several_items(tmp_path: Path) -> None:
    order = {"id": 7, "user_id": "u", "at": 1, "items": [{"sku": "a", "price": 1.5}, {"sku": "b", "price": 2}]}
    options = ["--type", "purchase", "--time-field", "at", "--item-field", "items.sku", "--field", "event_id=id"]
    done, rows = logged(tmp_path, json.dumps(order), *options, "--field", "price=items.price", name="x.jsonl")
    assert [(row["item"], row["price"], row["event_id"]) for row in rows] == [("a", 1.5, "7/a"), ("b", 2, "7/b")]
    assert "1 rows" in done.stdout
    assert "rows with several items are an interaction for each: 2 of 1 rows" in done.stdout


def test_several_items_in_one_text(tmp_path: Path) -> None:
    text = "user_id\titem_id\ttimestamp\nu\tN1 N2\t1\nu\t\t2\nv\tN3\t3\n"
    options = ["--type", "click", "--item-separator", "space"]
    done, rows = logged(tmp_path, text, *options, name="x.tsv")
    assert [row["item"] for row in rows] == ["N1", "N2", "N3"]
    assert "refused 1" in done.stdout


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("4/5", 4), ("4.0 out of 5 stars", 4), ("3,5 / 5", 3.5), ("1 star", 1), ("\u2605\u2605\u2605\u2606\u2606", 3),
        ("like", 1), ("Thumbs down", 0), ("80%", None), ("good", None), ("", None),
    ],
)  # fmt: skip
def test_ratings_as_text(text: str, rating: float | None) -> None:
    assert rating_in(text) == rating


@pytest.mark.parametrize(
    ("ratings", "types", "said"),
    [
        (("up", "down", "up"), {"like": 2, "dislike": 1}, "ratings are thumbs"),
        (("like", "like"), {"like": 2}, "ratings are thumbs"),
        ((1, -1, 0, 1), {"like": 2, "dislike": 1, "view": 1}, "0 means not rated (25.0%)"),
        ((-1, 10, 7, -1), {"rating": 2, "view": 2}, "-1 means not rated (50.0%)"),
        (("4/5", "3/5"), {"rating": 2}, "ratings are from 3 to 4"),
        ((8, 10, 0), {"rating": 2, "view": 1}, "[rating] middle = 5.5"),
    ],
)
def test_scales(ratings: tuple[object, ...], types: dict[str, int], said: str, tmp_path: Path) -> None:
    text = f"{HEADER},r\n" + "".join(f"u,i{n},{n + 1},{rating}\n" for n, rating in enumerate(ratings))
    done, rows = logged(tmp_path, text, "--type", "rating", "--field", "value=r")
    assert said in done.stdout
    assert {name: sum(row["type"] == name for row in rows) for name in types} == types
    assert sum(types.values()) == len(rows)


@pytest.mark.parametrize("missing", ["NULL", "nan", "None", "<NA>", "\\N", ""])
def test_ids_that_stand_for_a_missing_one(missing: str, tmp_path: Path) -> None:
    text = f"{HEADER}\n{missing},a,1\nu,{missing},2\nu,a,3\n"
    done, rows = logged(tmp_path, text, "--type", "click")
    assert len(rows) == 1
    assert "refused 2" in done.stdout
    _, rows = logged(tmp_path, f"{HEADER}\nu,NULL,4\n", "--type", "click", "--null", "?")
    assert [row["item"] for row in rows] == ["a", "NULL"]


def test_ids_that_a_spreadsheet_shortened(tmp_path: Path) -> None:
    done, _ = logged(tmp_path, f"{HEADER}\nu,9.78014E+12,1\n", "--type", "click")
    assert "ids such as 9.78014E+12 were shortened by a spreadsheet" in done.stdout
