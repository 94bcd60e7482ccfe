"""`recserve interactions`: every format, every refusal, twice the same file, and what is shown."""

from __future__ import annotations

import csv
import datetime
import json
import math
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from recserve_export.cli.interactions import app
from recserve_export.errors import MappingError
from recserve_export.interactions.importer import import_interactions
from recserve_export.interactions.mapping import InteractionMapping, field_columns, named_columns
from recserve_export.tabular.formats.documents import JsonLinesSource
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.streams import Stream
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import ANN, BOB, KEY, PSEUDONYMS

COLUMNS = ("user", "sku", "what", "at", "stars", "seconds", "query", "device")
AT = 1_700_000_000.25
ROWS: list[dict[str, Any]] = [
    {"user": "ann", "sku": "i1", "what": "rating", "at": AT, "stars": 4.5},
    {"user": "ann", "sku": "i2", "what": "view", "at": AT + 1, "seconds": 30.0, "device": "phone"},
    {"user": "bob", "what": "search", "at": AT + 2, "query": "space opera"},
]
OPTIONS = [
    "--user-field",
    "user",
    "--item-field",
    "sku",
    "--type-field",
    "what",
    "--time-field",
    "at",
    "--text-field",
    "query",
]
OPTIONS += ["--field", "value=stars", "--field", "duration_s=seconds", "--context", "device"]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def ok(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def write_rows(path: Path, rows: list[dict[str, Any]], columns: tuple[str, ...] = COLUMNS) -> Path:
    """Write the same rows in the format of the name."""
    if path.suffix == ".jsonl":
        path.write_bytes(b"".join(msgspec.json.encode({n: row.get(n) for n in columns}) + b"\n" for row in rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows]) for name in columns}), path)
    else:
        with path.open("w", encoding="utf-8", newline="") as file:
            delimiter, kind = ("\t", ":token") if path.suffix == ".inter" else (",", "")
            writer = csv.writer(file, delimiter=delimiter)
            writer.writerow([name + kind for name in columns])
            writer.writerows([row.get(name, "") for name in columns] for row in rows)
    return path


def held(home: Path, user: str) -> list[dict[str, Any]]:
    with InteractionStore(Workspace(home).interactions) as store:
        found: list[dict[str, Any]] = store.export(user)["interactions"]
    return [{name: value for name, value in row.items() if name != "event_id"} for row in found]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet", "inter"])
def test_rows_of_every_format_become_the_same_interactions(suffix: str, tmp_path: Path, home: Path) -> None:
    path = write_rows(tmp_path / f"x.{suffix}", ROWS)
    assert "recorded 3 interactions of x." in ok("import", path, "--home", home, *OPTIONS)
    phone = {"duration_s": 30.0, "context": {"device": "phone"}}
    assert held(home, ANN) == [
        {"user": ANN, "item": "i1", "type": "rating", "timestamp": AT, "value": 4.5},
        {"user": ANN, "item": "i2", "type": "view", "timestamp": AT + 1, **phone},
    ]
    assert held(home, BOB) == [{"user": BOB, "text": "space opera", "type": "search", "timestamp": AT + 2}]
    again = ok("import", path, "--home", home, *OPTIONS)
    assert "recorded 0 interactions of" in again
    assert "3 were there already, refused 0 (revision 1)" in again


def test_the_same_rows_in_another_format_add_nothing(tmp_path: Path, home: Path) -> None:
    for suffix in ("csv", "jsonl", "parquet", "inter"):
        ok("import", write_rows(tmp_path / f"x.{suffix}", ROWS), "--home", home, *OPTIONS)
    assert (len(held(home, ANN)), len(held(home, BOB))) == (2, 1)


def test_a_recbole_file_as_it_is_published(tmp_path: Path, home: Path) -> None:
    path = tmp_path / "small.inter"
    path.write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\n196\t242\t3\t881250949\n")
    ok("import", path, "--home", home, "--type", "rating", "--field", "value=rating")
    user = PSEUDONYMS.of("196")
    expected = {"user": user, "item": "242", "type": "rating", "value": 3.0, "timestamp": 881250949.0}
    assert held(home, user) == [expected]


def test_every_refused_row_is_named_and_counted(tmp_path: Path, home: Path) -> None:
    rows: list[dict[str, Any]] = [
        ROWS[0],
        {**ROWS[0], "user": ""},
        {**ROWS[0], "user": "x" * 257},
        {**ROWS[0], "what": "Rating!"},
        {**ROWS[0], "at": -1},
        {**ROWS[0], "at": 1e300},
        {**ROWS[0], "sku": ""},
        {**ROWS[0], "at": "yesterday"},
        {**ROWS[0], "stars": True},
        {**ROWS[0], "sku": ["i1"]},
    ]
    path = write_rows(tmp_path / "x.jsonl", rows)
    with path.open("ab") as file:
        file.write(b"not json\n")
    refusals = tmp_path / "refused.jsonl"
    output = ok("import", path, "--home", home, *OPTIONS, "--refusals", refusals)
    assert "recorded 1 interactions of x.jsonl, 0 were there already, refused 10" in output
    found = [(row["row"], row["reason"]) for row in map(json.loads, refusals.read_text().splitlines())]
    assert sorted(found) == [
        (2, "invalid_user"),
        (3, "invalid_user"),
        (4, "invalid_type"),
        (5, "invalid_timestamp"),
        (6, "in_future"),
        (7, "invalid_subject"),
        (8, "invalid_timestamp"),
        (9, "invalid_number"),
        (10, "wrong_type"),
        (11, "malformed"),
    ]
    assert "xxxx" not in output + refusals.read_text()
    lines = [line for line in output.splitlines() if not line.startswith(("read as", "types", "ratings"))]
    assert max(map(len, lines)) <= 100


def test_nothing_accepted_is_an_error(tmp_path: Path, home: Path) -> None:
    result = run("import", write_rows(tmp_path / "x.jsonl", [{**ROWS[0], "at": -1}]), "--home", home, *OPTIONS)
    assert result.exit_code == 1
    assert "nothing was accepted" in result.stderr


@pytest.mark.parametrize(
    ("at", "options"),
    [
        ("2023-11-14T22:13:20.25Z", []),
        ("2023-11-14 23:13:20.250000+01:00", []),
        ("2023-11-14T22:13:20.25", []),
        (1_700_000_000_250, ["--time-unit", "ms"]),
        (1_700_000_000_250_000, ["--time-unit", "us"]),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_times_are_read_in_several_ways(
    suffix: str, at: object, options: list[str], tmp_path: Path, home: Path
) -> None:
    ok("import", write_rows(tmp_path / f"x.{suffix}", [{**ROWS[0], "at": at}]), "--home", home, *OPTIONS, *options)
    assert [row["timestamp"] for row in held(home, ANN)] == [AT]


def test_dates_of_parquet(tmp_path: Path, home: Path) -> None:
    moment = datetime.datetime.fromtimestamp(AT, datetime.UTC)
    ok("import", write_rows(tmp_path / "x.parquet", [{**ROWS[0], "at": moment}]), "--home", home, *OPTIONS)
    assert [row["timestamp"] for row in held(home, ANN)] == [AT]


@pytest.mark.parametrize("options", [[], ["--type", "view", "--type-field", "what"], ["--item-field", ""]])
def test_a_mapping_that_says_too_little_or_too_much(options: list[str], tmp_path: Path, home: Path) -> None:
    result = run("import", write_rows(tmp_path / "x.csv", ROWS), "--home", home, *options)
    assert (result.exit_code, result.stderr.startswith("error: ")) == (1, True)


def test_a_missing_column_is_named_with_the_nearest(tmp_path: Path, home: Path) -> None:
    path = write_rows(tmp_path / "x.csv", ROWS)
    result = run("import", path, "--home", home, *OPTIONS, "--field", "price=secondz")
    assert "no column 'secondz'; did you mean 'seconds'?" in result.stderr
    with pytest.raises(MappingError, match="did you mean 'price'"):
        field_columns(["prize"])
    with pytest.raises(MappingError, match="twice"):
        named_columns("--context", ["a", "a=b"])


def test_a_column_that_no_line_has_stops_the_import_before_it_begins(tmp_path: Path, home: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", ROWS)
    result = run("import", path, "--home", home, *OPTIONS, "--field", "price=secondz")
    assert "no column 'secondz'; did you mean 'seconds'?" in result.stderr
    assert held(home, ANN) == []


def test_the_mapping_as_a_file(tmp_path: Path, home: Path) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(
        'user = "user"\nitem = "sku"\ntext = "query"\ntimestamp = "at"\ntype_column = "what"\n'
        '[fields]\nvalue = "stars"\nduration_s = "seconds"\n[context]\ndevice = "device"\n'
    )
    path = write_rows(tmp_path / "x.csv", ROWS)
    ok("import", path, "--home", home, "--mapping", mapping)
    assert "3 were there already" in ok("import", path, "--home", home, *OPTIONS)
    result = run("import", path, "--home", home, "--mapping", mapping, "--type", "view")
    assert "leave out the options" in result.stderr


@pytest.fixture
def filled(tmp_path: Path, home: Path) -> Path:
    ok("import", write_rows(tmp_path / "filled.jsonl", ROWS), "--home", home, *OPTIONS)
    return home


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_an_export_imported_elsewhere_is_the_same_store(suffix: str, tmp_path: Path, filled: Path) -> None:
    path, other = tmp_path / f"out.{suffix}", tmp_path / "other"
    assert "3 interactions in" in ok("export", path, "--home", filled)
    options = ["--user-field", "user", "--item-field", "item", "--text-field", "text", "--type-field", "type"]
    fields = ["--field", "value", "--field", "duration_s", "--field", "event_id"]
    ok("import", path, "--home", other, "--pseudonyms", *options, *fields)
    without = [{n: v for n, v in row.items() if n != "context"} for row in held(filled, ANN)]
    assert (held(other, ANN), held(other, BOB)) == (without, held(filled, BOB))
    assert "3 were there already" in ok("import", path, "--home", filled, "--pseudonyms", *options, *fields)


def test_pseudonyms_are_imported_with_their_keys_only(
    tmp_path: Path, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, other = tmp_path / "out.jsonl", tmp_path / "other"
    ok("export", path, "--home", filled)
    monkeypatch.delenv(KEY_VARIABLE)
    fields = ["--user-field", "user", "--item-field", "item", "--type-field", "type"]
    found = run("import", path, "--home", other, "--pseudonyms", *fields)
    assert found.exit_code == 1
    assert "pseudonym.key cannot be read" in found.stderr
    assert list(tmp_path.glob("other/*")) == []


def test_an_export_for_recbole(tmp_path: Path, filled: Path) -> None:
    path = tmp_path / "out.inter"
    exported = run("export", path, "--home", filled)
    assert "2 interactions in" in exported.stdout
    assert "no erasure reaches exported files" in exported.stderr
    header, first, _ = path.read_text().splitlines()
    assert header == "user_id:token\titem_id:token\ttype:token\trating:float\ttimestamp:float"
    assert first == f"{ANN}\ti1\trating\t4.5\t{AT}"


def test_all_that_is_held_of_one_user(tmp_path: Path, filled: Path) -> None:
    path = tmp_path / "ann.json"
    ok("export", path, "--home", filled, "--user", "ann")
    document = json.loads(path.read_text())
    assert (document["user"], len(document["interactions"]), len(document["seen"])) == (ANN, 2, 2)


def test_stats(filled: Path) -> None:
    assert "3 interactions of 2 users with 2 items, revision 1" in ok("stats", "--home", filled)
    assert json.loads(ok("stats", "--home", filled, "--json"))["types"] == {"rating": 1, "search": 1, "view": 1}


def test_a_preview_shows_factors_that_multiply_to_the_weight(filled: Path) -> None:
    document = json.loads(ok("preview", "ann", "--home", filled, "--json"))
    assert [row["subject"] for row in document["rows"]] == ["i2", "i1"]
    for row in document["rows"]:
        assert math.prod(row["factors"].values()) == pytest.approx(row["weight"], rel=1e-12)
    table = ok("preview", "ann", "--home", filled)
    assert "2 of 2 interactions kept" in table
    assert all(name in table for name in ("item or text", "rating", "position", "weight"))
    assert max(map(len, table.splitlines())) <= 100
    result = run("preview", "nobody", "--home", filled)
    assert (result.exit_code, "nobody" in result.stderr) == (1, False)


def test_rules_are_fitted_on_a_range_and_used(tmp_path: Path, filled: Path) -> None:
    rules, out = tmp_path / "rules.toml", tmp_path / "rules.json"
    rules.write_text("[rating]\nmethod = 'z'\n[features.dwell]\nmethod = 'log'\n")
    assert "run: recserve interactions fit" in run("preview", "ann", "--home", filled, "--rules", rules).stderr
    dates = ["--name", "train", "--from", "2023-01-01", "--to", "2024-01-01"]
    assert "fitted on 3 interactions of train" in ok("fit", out, "--home", filled, "--rules", rules, *dates)
    document = json.loads(ok("preview", "ann", "--home", filled, "--rules", out, "--json"))
    assert document["rows"][0]["factors"]["dwell"] == pytest.approx(math.exp(0.5))
    assert json.loads(out.read_text())["fitted"]["name"] == "train"


def test_erasing_a_user_asks_and_then_refuses_a_replay(tmp_path: Path, filled: Path) -> None:
    declined = CliRunner().invoke(app, ["erase", "ann", "--home", str(filled)], input="n\n")
    assert (declined.exit_code, len(held(filled, ANN))) == (1, 2)
    assert "2 interactions and 0 logged answers removed" in ok("erase", "ann", "--home", filled, "--yes")
    assert (held(filled, ANN), len(held(filled, BOB))) == ([], 1)
    again = ok("import", write_rows(tmp_path / "again.jsonl", ROWS), "--home", filled, *OPTIONS)
    assert "1 were there already, refused 2" in again
    assert "erased" in again


def test_expiry(filled: Path) -> None:
    assert "0 rows removed" in ok("expire", "--home", filled)
    assert "1 rows removed" in ok("expire", "--home", filled, "--per-user", 1)
    assert [row["item"] for row in held(filled, ANN)] == ["i2"]
    assert "2 rows removed" in ok("expire", "--home", filled, "--max-age-days", 1)


def test_no_store_says_how_to_make_one(home: Path) -> None:
    result = run("stats", "--home", home)
    assert (result.exit_code, "recserve interactions import" in result.stderr) == (1, True)


class Endless(JsonLinesSource):
    """The rows of a file that is not there."""

    count = 20_000

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number in range(self.count):
            yield number, {"user_id": f"u{number}", "item_id": "x" * 400 + str(number), "timestamp": number}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    mapping = InteractionMapping(type="view")
    with InteractionStore(tmp_path / "i.db", create=True) as store:
        peaks = []
        for count in (40_000, 120_000):
            source = Endless(Stream(tmp_path / "empty"), mapping, ReadOptions())
            source.count = count
            tracemalloc.start()
            import_interactions(store, source, mapping, PSEUDONYMS)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    # Batches of 8 MiB of item ids: three times the rows must not take even half as much again.
    assert peaks[1] < 1.5 * peaks[0]
