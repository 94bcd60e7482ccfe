"""Files that were dropped on the console: where they are kept, and the commands that import them."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_console.home.imports import place_for, preview_of
from recserve_export.errors import SourceError


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("films.csv", "films.csv"),
        ("../../etc/passwd", "passwd"),
        ("C:\\films\\new films.csv", "new_films.csv"),
        ("--home", "home"),
        ("..", "file"),
        (".ssh", "ssh"),
        ("", "file"),
        ("a\0b;$(touch x).csv", "a_b_touch_x_.csv"),
        ("Filme über.csv", "Filme_ber.csv"),
        ("x" * 300 + ".csv.gz", "x" * 93 + ".csv.gz"),
    ],
)
def test_a_name_keeps_plain_characters_only(tmp_path: Path, given: str, kept: str) -> None:
    place = place_for(tmp_path, given)
    assert place == tmp_path / "console" / "uploads" / kept


def test_one_file_is_kept_at_most(tmp_path: Path) -> None:
    place_for(tmp_path, "a.csv").write_text("1")
    place_for(tmp_path, "b.csv").write_text("2")
    assert [path.name for path in (tmp_path / "console" / "uploads").iterdir()] == ["b.csv"]


def test_a_file_of_items_and_one_of_interactions(tmp_path: Path) -> None:
    items = place_for(tmp_path, "items.csv")
    items.write_text("sku;name;year\na1;Red shoe;2001\n")
    found = preview_of(items, "catalogue")
    assert found.command.split()[1:6] == ["catalogue", "import", str(items), "--id-field", "sku"]
    assert "';'" in found.read_as
    assert [(column.name, column.kind) for column in found.columns] == [
        ("sku", "text"), ("name", "text"), ("year", "integer"),
    ]  # fmt: skip
    log = place_for(tmp_path, "log.csv")
    log.write_text("user_id,item_id,timestamp\nann,a1,2024-01-01T00:00:00Z\n")
    assert preview_of(log, "interactions").command == f"recserve interactions import {log} --type click"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = place_for(tmp_path, "x.parquet")
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(SourceError):
        preview_of(path, "catalogue")
