"""Workbooks as people have them: types, dates, several sheets, empty rows, cells that hold an error."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from typer.testing import CliRunner

from recserve_export.cli import interactions
from recserve_export.cli.catalogue import commands as catalogue
from recserve_export.errors import SourceError
from recserve_export.tabular.opening import Opened
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import AllColumns, RowError
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import KEY

DAY = datetime.date(2024, 3, 1)
MOMENT = datetime.datetime(2024, 3, 1, 12, 30, 15)
ITEMS: list[list[Any]] = [
    ["id", "title", "year", "price", "used", "added"],
    [1, "Heat", 1995, 9.5, True, DAY],
    ["b-2", "Ran", None, 12, False, MOMENT],
]
LOG: list[list[Any]] = [["user_id", "item_id", "timestamp"], [7, 1, MOMENT], ["u8", "b-2", DAY]]


def workbook(path: Path, **sheets: list[list[Any]]) -> Path:
    """A file with these sheets."""
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def read(path: Path, **options: Any) -> list[Any]:
    return [row for _, row in Opened(path, ReadOptions(**options)).source(AllColumns()).rows()]


def test_types_are_kept(tmp_path: Path) -> None:
    rows = read(workbook(tmp_path / "x.xlsx", items=ITEMS))
    assert rows[0] == {"id": 1, "title": "Heat", "year": 1995, "price": 9.5, "used": True, "added": DAY}
    assert [type(rows[0][name]) for name in ("id", "price", "used")] == [int, float, bool]
    assert rows[1] == {"id": "b-2", "title": "Ran", "year": None, "price": 12, "used": False, "added": MOMENT}


def test_empty_rows_and_what_stands_above_the_header(tmp_path: Path) -> None:
    rows = [[], [None, ""], ITEMS[0], ITEMS[1], [], [None], ITEMS[2], []]
    path = workbook(tmp_path / "x.xlsx", items=rows)
    assert read(path) == read(workbook(tmp_path / "y.xlsx", items=ITEMS))
    with pytest.raises(SourceError, match="no header line"):
        read(workbook(tmp_path / "empty.xlsx", items=[]))


def test_sheets_by_name(tmp_path: Path) -> None:
    path = workbook(tmp_path / "x.xlsx", items=ITEMS, log=LOG)
    assert [row["user_id"] for row in read(path, sheet="log")] == [7, "u8"]
    assert read(path)[0]["title"] == "Heat"
    with pytest.raises(SourceError, match=r"no sheet 'logs'; did you mean 'log'\?; it has: items, log"):
        read(path, sheet="logs")


def test_without_a_header(tmp_path: Path) -> None:
    path = workbook(tmp_path / "x.xlsx", items=ITEMS[1:])
    assert [row["t"] for row in read(path, columns=("i", "t", "y"))] == ["Heat", "Ran"]


def test_short_rows_lack_the_rest(tmp_path: Path) -> None:
    rows = read(workbook(tmp_path / "x.xlsx", items=[["id", "title", "year"], [1], [2, "b"]]))
    assert rows == [{"id": 1, "title": None, "year": None}, {"id": 2, "title": "b", "year": None}]


def test_formulas_count_by_their_last_value(tmp_path: Path) -> None:
    path = workbook(tmp_path / "x.xlsx", items=[["id", "title"], ["=1+1", "never computed"], [3, "c"]])
    rows = read(path)
    assert not any(isinstance(row, RowError) for row in rows)
    assert [row["title"] for row in rows] == ["never computed", "c"]


def test_a_catalogue_and_a_log_from_one_workbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    path, home = workbook(tmp_path / "shop.xlsx", items=ITEMS, log=LOG), tmp_path / "home"
    attributes = [f"--attribute={of}" for of in ("year:int", "price:float", "used:bool")]
    done = CliRunner().invoke(catalogue.app, ["import", str(path), "--text", "title", *attributes, "--home", str(home)])
    assert "read as: workbook, sheet items, header, 2 rows" in done.output
    with CatalogueStore(home / "catalogue.db") as store:
        assert [(item.id, item.attributes) for item in store.items()] == [
            ("1", {"year": 1995, "price": 9.5, "used": True}),
            ("b-2", {"price": 12.0, "used": False}),
        ]
    done = CliRunner().invoke(
        interactions.app, ["import", str(path), "--sheet", "log", "--type", "click", "--home", str(home)]
    )
    assert "recorded 2 interactions" in done.output
    assert "100.0% of 2 interactions name an item of the catalogue" in done.output
    with InteractionStore(Workspace(home).interactions) as log:
        found = log.stats()
    assert (found.newest, found.oldest) == (1_709_296_215.0, 1_709_251_200.0)
