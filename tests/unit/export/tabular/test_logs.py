"""Logs as people have them: times, types, ratings, ids that do not fit, and files that a command must not empty."""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from recserve_export.cli import interactions
from recserve_export.cli.catalogue import commands as catalogue
from recserve_export.tabular.times import Times
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import KEY


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def log(path: Path, text: str, home: Path, *options: str) -> Result:
    path.write_text(text)
    return CliRunner().invoke(interactions.app, ["import", str(path), "--home", str(home), *options])


def items(path: Path, text: str, home: Path, *options: str) -> Result:
    path.write_text(text)
    return CliRunner().invoke(catalogue.app, ["import", str(path), "--home", str(home), "--text", "title", *options])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1701010112359", 1_701_010_112.359),
        (1_701_010_112_359, 1_701_010_112.359),
        ("1709251200", 1_709_251_200.0),
        ("1.7e9", 1_700_000_000.0),
        ("2024-03-01", 1_709_251_200.0),
        ("2024/03/01 00:00", 1_709_251_200.0),
        ("03/01/2024", 1_709_251_200.0),
        ("Mar 1, 2024", 1_709_251_200.0),
        ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200.0),
        ("2024-03-01 00:00:00 UTC", 1_709_251_200.0),
        ("2024-03-01 00:00:00.5 UTC", 1_709_251_200.5),
        ("2024-03-01T01:00:00 +0100", 1_709_251_200.0),
        ("03/01/2024 01:00 +01:00", 1_709_251_200.0),
        ("Mar 1, 2024, 5:06:07 PM", 1_709_312_767.0),
        ("3/1/2024 5:06:07 p.m.", 1_709_312_767.0),
        ("01-Mar-2024 17:06:07", 1_709_312_767.0),
        ("03-01-2024", 1_709_251_200.0),
        ("Fri Mar 1 00:00:00 2024", 1_709_251_200.0),
        ("2024-03-01 01:00:00 CET", 1_709_251_200.0),
        ("2024-02-29 16:00:00.000 PST", 1_709_251_200.0),
        ("2024-03-01 01:00:00 Europe/Berlin", 1_709_251_200.0),
        ("2024-03-01T01:00:00+01:00[Europe/Paris]", 1_709_251_200.0),
        ("2024-03-01T01:00:00[Europe/Paris]", 1_709_251_200.0),
        ("2024-03-01 00:00:00.123456789 UTC", 1_709_251_200.123456),
        ("Thu, 29 Feb 2024 19:00:00 EST", 1_709_251_200.0),
        ("Fri Mar 01 01:00:00 CET 2024", 1_709_251_200.0),
        ("Fri Mar 01 00:00:00 +0000 2024", 1_709_251_200.0),
        ("Fri Mar 01 2024 01:00:00 GMT+0100 (Central European Standard Time)", 1_709_251_200.0),
        ("Friday, March 1, 2024", 1_709_251_200.0),
        ("01/Mar/2024:01:00:00 +0100", 1_709_251_200.0),
        ("2024年3月1日 0時0分", 1_709_251_200.0),
        ("3/1/24", 1_709_251_200.0),
        ("2024-W09-5", 1_709_251_200.0),
        ("2024-03-01 00:00:00 IST", None),
        ("2024-03-01 00:00:00 Europe/Nowhere", None),
        ("2024-03-01 00:00:00 +99:00", None),
        ("01.03.2024", None),
        ("2024-03", None),
        ("Mar 1, 2024, 5:06:07 XM", None),
        ("13/01/2024", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (True, None),
    ],
)
def test_times(value: object, expected: float | None) -> None:
    assert Times().seconds(value) == expected


def test_zones_and_days_first() -> None:
    assert Times(zone="Europe/Berlin").seconds("2024-03-01") == 1_709_251_200 - 3600
    assert Times(zone="Europe/Berlin").seconds("2024-03-01T00:00Z") == 1_709_251_200
    assert Times(day_first=True).seconds("01/03/2024") == 1_709_251_200
    assert Times(day_first=True).seconds("01.03.24 00:00") == 1_709_251_200
    assert Times(zone="Asia/Shanghai").seconds("Fri Mar 01 08:00:00 CST 2024") == 1_709_251_200
    assert Times(zone="America/Chicago").seconds("2024-02-29 18:00:00 CST") == 1_709_251_200


@pytest.mark.parametrize("options", [[], ["--time-unit", "ms"]])
def test_milliseconds_are_numbers_whatever_they_look_like(options: list[str], tmp_path: Path, home: Path) -> None:
    text = "user_id,item_id,timestamp\nu1,f1,1700000000000\nu1,f3,1701010112359\n"
    assert "recorded 2" in log(tmp_path / "x.csv", text, home, "--type", "click", *options).stdout
    with InteractionStore(Workspace(home).interactions) as store:
        assert store.stats().newest == 1_701_010_112.359


def test_a_refused_time_is_quoted_as_the_file_has_it(tmp_path: Path, home: Path) -> None:
    text = "user_id,item_id,timestamp\nu1,f1,9900000000\nu1,f2,1700000000\nu1,f3,01/13/x\n"
    output = log(tmp_path / "x.csv", text, home, "--type", "click").stdout
    assert "timestamp is '9900000000'" in output
    assert "timestamp is '01/13/x'" in output


@pytest.mark.parametrize(
    ("times", "options", "newest", "said"),
    [
        (("45352", "45352.25"), [], 1_709_272_800, "times are days as spreadsheets count them"),
        (("45352", "45352.25"), ["--time-zone", "Europe/Berlin"], 1_709_269_200, "times are days"),
        (("45352", "45352.25"), ["--time-unit", "s"], 45_352.25, "times are from 1970-01-01"),
        (("20240229", "20240301"), [], 1_709_251_200, "times are dates of digits"),
        (("202402290000", "202403010000"), [], 1_709_251_200, "times are dates of digits"),
        (("20240229235959", "20240301000000"), [], 1_709_251_200, "times are dates of digits"),
        (("2024-02-29", "20240301"), [], 1_709_251_200, "times are dates of digits"),
        (("1999", "2000"), [], 946_684_800, "times are dates of digits"),
        (("7", "2000"), [], 2000, "times are from 1970-01-01"),
        (("1709251100", "1709251200"), [], 1_709_251_200, "times are from 2024-02-29 23:58 to 2024-03-01 00:00 UTC"),
    ],
)
def test_numbers_that_are_no_seconds(
    times: tuple[str, str], options: list[str], newest: float, said: str, tmp_path: Path, home: Path
) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"u,i{time},{time}\n" for time in times)
    assert said in log(tmp_path / "x.csv", text, home, "--type", "click", *options).stdout
    with InteractionStore(Workspace(home).interactions) as store:
        assert store.stats().newest == newest


@pytest.mark.parametrize(
    ("times", "is_refused"),
    [
        (("01/03/2024", "13/03/2024 14:05"), True),
        (("01.03.2024", "02.03.2024"), True),
        (("01.03.24", "02.03.24"), True),
        (("03/01/2024", "03/13/2024"), False),
        (("03/01/2024", "03/02/2024"), False),
    ],
)
def test_days_before_months_are_asked_for(times: tuple[str, str], is_refused: bool, tmp_path: Path, home: Path) -> None:
    text = "user_id,item_id,timestamp\n" + "".join(f"u,i{time},{time}\n" for time in times)
    found = log(tmp_path / "x.csv", text, home, "--type", "click")
    assert ("say so with --day-first; nothing is recorded" in found.stderr) == is_refused
    assert ("recorded 2" in found.stdout) != is_refused
    if is_refused:
        assert "recorded 2" in log(tmp_path / "x.csv", text, home, "--type", "click", "--day-first").stdout


def test_a_log_without_times(tmp_path: Path, home: Path) -> None:
    text = "user_id,item_id\nu1,f1\nu1,f2\n"
    refused = log(tmp_path / "x.csv", text, home, "--type", "click")
    assert "--time row" in refused.stderr
    done = log(tmp_path / "x.csv", text, home, "--type", "click", "--time", "row")
    assert "the order of the rows stands for them" in done.stdout
    assert "recorded 2" in done.stdout
    assert "2 were there already" in log(tmp_path / "x.csv", text, home, "--type", "click", "--time", "row").stdout
    fixed = log(tmp_path / "x.csv", text, home, "--type", "click", "--time", "2024-03-01")
    assert "every interaction has the time 2024-03-01" in fixed.stdout


def test_names_of_types(tmp_path: Path, home: Path) -> None:
    text = "user_id,item_id,timestamp,e\nu,a,1,PURCHASE\nu,b,2,add to cart\nu,c,3,transaction\n"
    options = ["--type-field", "e", "--map-type", "transaction=purchase"]
    output = log(tmp_path / "x.csv", text, home, *options).stdout
    assert "'PURCHASE' is purchase, 'add to cart' is add_to_cart, 'transaction' is purchase" in output
    assert "types without a weight, which no recommendation uses: add_to_cart 1" in output


@pytest.mark.parametrize(
    ("ratings", "types", "said"),
    [
        ((0, 7, 10, 0), {"rating": 2, "view": 2}, "0 means not rated (50.0%)"),
        ((1, 3, 5, 4), {"rating": 4}, "ratings are from 1 to 5"),
        ((0.5, 0, 5, 3), {"rating": 4}, "ratings are from 0 to 5"),
        ((0, 1, 1, 1), {"dislike": 1, "like": 3}, "ratings are thumbs"),
        ((-1, 1, 1, 1), {"dislike": 1, "like": 3}, "ratings are thumbs"),
    ],
)
def test_scales_of_ratings(
    ratings: tuple[float, ...], types: dict[str, int], said: str, tmp_path: Path, home: Path
) -> None:
    rows = "".join(f"u,i{n},{n + 1},{rating}\n" for n, rating in enumerate(ratings))
    text = "user_id,item_id,timestamp,r\n" + rows
    assert said in log(tmp_path / "x.csv", text, home, "--type", "rating", "--field", "value=r").stdout
    with InteractionStore(Workspace(home).interactions) as store:
        assert store.stats().types == types


def test_what_fits_is_said_on_both_sides(tmp_path: Path, home: Path) -> None:
    clicks = "user_id,item_id,timestamp\nu1,100,1709251200\nu1,101,1709251260\n"
    items(tmp_path / "i.csv", "id,title\n100.0,a\n101.0,b\n", home)
    done = log(tmp_path / "x.csv", clicks, home, "--type", "click")
    assert done.exit_code == 1
    assert "0.0% of 2 interactions" in done.stderr
    assert "'100'" in done.stderr
    assert "'100.0'" in done.stderr
    done = items(tmp_path / "i.csv", "id,title\n100,a\n102,b\n", home)
    assert done.exit_code == 0
    assert "50.0% of 2 interactions name an item of the catalogue; 1 do not (first: '101')" in done.stdout


def test_a_changed_catalogue_is_imported_again(tmp_path: Path, home: Path) -> None:
    text = "id,title\nr1,a\nr2,b\n"
    items(tmp_path / "i.csv", text, home)
    assert "up to date" in items(tmp_path / "i.csv", text, home).stdout
    from recserve_server_ext.catalogue.changes import Request, Take, change
    from recserve_server_ext.catalogue.store import CatalogueStore

    with CatalogueStore(home / "catalogue.db") as store:
        change(store, [Take("r2", None)], Request("", ""), store.head(), "x")
    done = items(tmp_path / "i.csv", text, home)
    assert "1 changes since the last import are replaced by the file" in done.stdout
    assert "accepted 2 items" in done.stdout


@pytest.mark.parametrize("kind", ["itself", "link", "store"])
def test_refusals_never_empty_another_file(kind: str, tmp_path: Path, home: Path) -> None:
    path, link = tmp_path / "i.csv", tmp_path / "link"
    items(path, "id,title\nr1,a\n", home)
    link.symlink_to(path)
    target = {"itself": path, "link": link, "store": home / "catalogue.db"}[kind]
    before = target.read_bytes()
    done = items(path, "id,title\nr1,a\n", home, "--refusals", str(target))
    assert (done.exit_code, target.read_bytes()) == (1, before)
    assert "which would be emptied" in done.stderr


@pytest.mark.parametrize("kind", ["key", "member", "part", "link to a part", "database", "recipe"])
def test_refusals_never_empty_what_is_read(kind: str, tmp_path: Path, home: Path) -> None:
    items(tmp_path / "i.csv", "id,title\nr1,a\n", home)
    Workspace(home).pseudonym_key.write_text("key")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("x.csv", "id,title\nr1,a\n")
    (tmp_path / "parts").mkdir()
    part = tmp_path / "parts" / "0.parquet"
    pq.write_table(pa.table({"id": ["r1"], "title": ["a"]}), part)
    (tmp_path / "link").symlink_to(part)
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.execute("CREATE TABLE goods AS SELECT 'r1' AS id, 'a' AS title")
    recipe = tmp_path / "x.toml"
    recipe.write_text('[catalogue]\nid = "id"\n[catalogue.texts]\ntitle = {}\n')
    source, target, options = {
        "key": (tmp_path / "i.csv", Workspace(home).pseudonym_key, []),
        "member": (tmp_path / "x.zip" / "x.csv", tmp_path / "x.zip", []),
        "part": (tmp_path / "parts", part, []),
        "link to a part": (tmp_path / "parts", tmp_path / "link", []),
        "database": (f"sqlite:///{tmp_path}/x.db", tmp_path / "x.db", []),
        "recipe": (tmp_path / "i.csv", recipe, ["--recipe", str(recipe)]),
    }[kind]
    before = target.read_bytes()
    arguments = ["import", str(source), "--home", str(home), *(options or ["--text", "title"]), "--force"]
    done = CliRunner().invoke(catalogue.app, [*arguments, "--refusals", str(target)])
    assert (done.exit_code, target.read_bytes()) == (1, before)
    assert "which would be emptied" in done.stderr
    kept = CliRunner().invoke(catalogue.app, [*arguments, "--refusals", str(tmp_path / "parts" / "refused.jsonl")])
    assert kept.exit_code == 0, kept.output


def test_previews_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("i.csv").write_text("sku;title;year;genres\n1;Heat;1995.0;Crime|Drama\n2;Ran;;War|Drama\n")
    done = CliRunner().invoke(catalogue.app, ["preview", "i.csv"])
    assert "read as: utf-8, ';', header, sku integer, title text, year integer, genres list" in done.stdout
    command = "recserve catalogue import i.csv --id-field sku --text title --attribute year:int --attribute genres:list"
    assert command in done.stdout
    Path("x.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,978300760\n")
    found = json.loads(CliRunner().invoke(interactions.app, ["preview-file", "x.csv", "--json"]).stdout)
    assert found["command"] == (
        "recserve interactions import x.csv --user-field userId --item-field movieId --type rating --field value=rating"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.csv", "x.csv"]
