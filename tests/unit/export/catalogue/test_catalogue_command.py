"""The command around the import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recserve_export.cli.catalogue.commands import app
from support.imports import DUNE, EMMA, write_rows

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
    assert found["attributes"] == {"year": {"items": 1, "types": ["int"], "distinct": 1, "most": {"1965": 1}}}


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


def test_command_imports_the_films(command: Command) -> None:
    result = command("import", "films")
    assert "accepted 17,470 items of films, refused 2 (revision 1)" in result.stdout
    assert "up to date (revision 1)" in command("import", "films").stdout
