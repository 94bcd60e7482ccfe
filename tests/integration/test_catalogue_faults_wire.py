"""Changing the catalogue over a real Triton: bad items, a full disk, a lock, and a clock that is set back."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_client import Client, ClientOptions, NewItem, Page, item, text
from recserve_client.errors import ExpiredCursor, Unavailable
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.snapshot import current
from support.clock import NoCompilerError, ShiftedClock
from support.lock import locked
from support.served import Served, served
from support.wire import Wire

pytestmark = pytest.mark.triton
ONCE = ClientOptions(tries=1, deadline_s=30)
_IGNORED = shutil.ignore_patterns("run", "catalogue.db*", "interactions.db*", "pseudonym.key")


def film(item_id: str, title: str, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}, **more}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (film("a", ""), "no text with a weight in $.texts {'title': ''}"),
        ({"id": "a", "texts": {}}, "no text with a weight in $.texts {}"),
        ({"id": "a"}, "texts"),
        (film("a", "x" * 2**20), "limits.item_bytes allows 262,144"),
        (film("a", "x" * 40_000), "$.texts.title has 40,000 bytes; limits.text_bytes allows 32,768"),
        (film("a", "x", attributes={f"n{n}": n for n in range(10_000)}), "$.attributes has 10,000 of them"),
        (film("a", "x", attributes={"year": "1999"}), "$.attributes.year is '1999', a string"),
        (film("a", "x", attributes={"when": [1, 2, 3]}), "$.attributes.when is [1, 2, 3]"),
        (film("a" * 10_000, "x"), "$.id"),
        (film("a\0b", "x"), r"$.id"),
        (film("", "x"), "$.id"),
        (film("a", "x", vector=[1.0, 2.0]), "vector"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_bad_item_is_refused_alone_and_named(live: Served, client: Client, bad: dict[str, Any], said: str) -> None:
    """The good one beside it is served; the model's process is the same afterwards."""
    process = live.stub("items").pid
    client.items.delete(["good"])
    answer = Wire(live.grpc).ask("items", {"op": "upsert", "items": [bad, film("good", "a good film")]})
    refused, good = answer["results"]
    assert (refused["status"], good["status"]) == ("refused", "created")
    assert refused["error"].startswith("$.items[0]")
    assert said in refused["error"]
    assert len(refused["error"]) < 1000
    slate = client.recommend([text("a good film")], k=1, min_revision=answer["revision"])
    assert slate.items[0].id == "good"
    assert live.stub("items").pid == process


def test_what_is_asked_with_a_wrong_vector_or_a_forged_cursor_is_refused(live: Served, client: Client) -> None:
    wire, known = Wire(live.grpc), client.items.list(limit=1).items[0].id
    for vector, said in ((np.full(3, 0.5, "<f4"), "3"), (np.full(4, np.nan, "<f4"), "")):
        packed = base64.b64encode(vector.tobytes()).decode()
        status, message = wire.refused("recommend", {"history": [{"vector": packed}]})
        assert (status, "$.history[0].vector" in message, said in message) == ("INVALID_ARGUMENT", True, True)
    cursor = client.recommend([item(known)], k=20, page=Page(5)).cursor
    assert isinstance(cursor, str)
    for place in (0, len(cursor) // 2, len(cursor) - 1):
        forged = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        with pytest.raises(ExpiredCursor):
            client.recommend([item(known)], k=20, page=Page(5, forged))
    assert len(client.recommend([item(known)], k=20, page=Page(5, cursor)).items) == 5


def test_places_are_found_within_a_radius(live: Served, client: Client) -> None:
    places = {"paris": [48.8566, 2.3522], "london": [51.5074, -0.1278], "null": [0, 0]}
    changed = client.items.upsert(
        [NewItem(f"at-{name}", {"title": f"a shop in {name}"}, {"shop": place}) for name, place in places.items()]
    )
    assert {(result.status, result.error) for result in changed.results} == {("created", "")}
    for radius, wanted in (("343km", ["at-paris"]), ("344km", ["at-london", "at-paris"])):
        where = f"within(shop, 48.8566, 2.3522, {radius})"
        slate = client.recommend([text("a shop")], where=where, count=True, min_revision=changed.revision)
        assert (sorted(found.id for found in slate.items), slate.count) == (wanted, len(wanted))


@pytest.fixture
def store(small_disk: Path) -> Path:
    """Where the catalogue is: on a disk of 2 MB."""
    return small_disk / "catalogue.db"


@pytest.fixture
def on_small_disk(tiny_home: Path, store: Path, tmp_path: Path) -> Iterator[Served]:
    home = shutil.copytree(tiny_home, tmp_path / "home", symlinks=True, ignore=_IGNORED)
    with closing(sqlite3.connect(tiny_home / "catalogue.db")) as old, closing(sqlite3.connect(store)) as new:
        old.backup(new)
    (home / "settings.toml").write_text(f'store = "{store}"\ncompact_after = 0\n')
    with served(home, "--config", str(home / "settings.toml")) as server:
        yield server


@pytest.mark.slow
def test_reads_go_on_while_the_disk_is_full_or_the_store_locked(
    on_small_disk: Served, store: Path, small_disk: Path
) -> None:
    acknowledged: dict[str, str] = {}
    with Client(on_small_disk.grpc, ONCE) as client:

        def write(number: int) -> None:
            title = f"film number {number} " + "x" * 3000
            client.items.upsert([NewItem(f"n{number}", {"title": title})])
            acknowledged[f"n{number}"] = title

        def fill() -> None:
            for number in range(10_000):
                write(number)

        with pytest.raises(Unavailable, match="disk"):
            fill()
        assert len(acknowledged) > 20
        last = list(acknowledged)[-1]
        reads(client, last, acknowledged[last])
        subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
        write(20_000)
        with locked(store):
            with pytest.raises(Unavailable, match="another process is writing to it, try again"):
                write(20_001)
            reads(client, "n20000", acknowledged["n20000"])
        write(20_001)
        reads(client, "n20001", acknowledged["n20001"])
    with CatalogueStore(store) as found:
        stored = {one.id: one.texts["title"] for one in found.items() if one.id.startswith("n")}
    assert stored == acknowledged
    assert not [event for event in on_small_disk.events() if event["event"] in ("server_restarted", "model_reloaded")]


def reads(client: Client, item_id: str, title: str) -> None:
    """Everything that reads is answered, with what was acknowledged last."""
    assert client.recommend([text(title)], k=1).items[0].id == item_id
    assert client.recommend([item(item_id)], k=3, where="exists(year)").items
    assert client.items.get([item_id]).items[0].texts == {"title": title}
    assert client.items.list(limit=5).items


_DAY_S = 24 * 3600


@pytest.mark.slow
def test_a_clock_that_is_set_back_changes_nothing(
    tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changes and snapshots keep their order; what was made the day before is swapped in, and started from."""
    try:
        clock = ShiftedClock(tmp_path)
    except NoCompilerError as error:
        pytest.skip(str(error))
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    home = shutil.copytree(tiny_home, tmp_path / "home", symlinks=True, ignore=shutil.ignore_patterns("run"))
    (home / "settings.toml").write_text("compact_after = 20\n")
    first = current(home / "snapshots").name
    with served(home, "--config", str(home / "settings.toml")) as server, Client(server.grpc, ONCE) as client:
        before = client.items.upsert([NewItem("day0", {"title": "before the clock"})]).revision
        clock.shift(-_DAY_S)
        after = client.items.upsert([NewItem(f"day{n}", {"title": f"after the clock {n}"}) for n in range(1, 30)])
        assert after.revision == before + 1
        client.items.delete(["day1"])
        compacted = server.wait_for("compacted", timeout_s=60)[-1]["snapshot"]
        assert compacted > first  # their names are in their order
        days = [read_manifest(home / "snapshots" / name).created for name in (compacted, first)]
        assert days[0] < days[1]
        wait_until_served(home, compacted)
        revision = client.items.upsert([NewItem("day30", {"title": "after the swap"})]).revision
        still_right(client, revision)
    assert current(home / "snapshots").name == compacted
    with served(home) as server, Client(server.grpc, ONCE) as client:
        still_right(client, revision)


def still_right(client: Client, revision: int) -> None:
    for item_id, title in (("day0", "before the clock"), ("day7", "after the clock 7"), ("day30", "after the swap")):
        assert client.recommend([text(title)], k=1, min_revision=revision).items[0].id == item_id
    assert "day1" not in [found.id for found in client.recommend([text("after the clock 1")], k=300).items]


def wait_until_served(home: Path, snapshot: str) -> None:
    (log,) = (home / "run").glob("*/triton.log")
    deadline = time.monotonic() + 60
    while f"serving snapshot {snapshot}" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.05)
