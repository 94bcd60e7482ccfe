"""Changing the catalogue over a real Triton: a full disk, a lock, and a clock that is set back."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, NewItem, item, text
from recserve_client.errors import Unavailable
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import current
from support.clock import NoCompilerError, ShiftedClock
from support.lock import locked
from support.served import Served, served, wait_for_snapshot
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
ONCE = ClientOptions(tries=1, deadline_s=30)


@pytest.fixture
def store(small_disk: Path) -> Path:
    """Where the catalogue is: on a disk of 2 MB."""
    return small_disk / "catalogue.db"


@pytest.fixture
def on_small_disk(tiny_home: Path, store: Path, tmp_path: Path) -> Iterator[Served]:
    home = copy_home(tiny_home, tmp_path / "home")
    Workspace(home).store.unlink()
    with closing(sqlite3.connect(tiny_home / "catalogue.db")) as old, closing(sqlite3.connect(store)) as new:
        old.backup(new)
    with served(home, settings=f'store = "{store}"\ncompact_after = 0\n') as server:
        yield server


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
    home = copy_home(tiny_home, tmp_path / "home")
    first = current(home / "snapshots").name
    with served(home, settings="compact_after = 20\n") as server, Client(server.grpc, ONCE) as client:
        before = client.items.upsert([NewItem("day0", {"title": "before the clock"})]).revision
        clock.shift(-_DAY_S)
        after = client.items.upsert([NewItem(f"day{n}", {"title": f"after the clock {n}"}) for n in range(1, 30)])
        assert after.revision == before + 1
        client.items.delete(["day1"])
        compacted = server.wait_for("compacted", timeout_s=60)[-1]["snapshot"]
        assert compacted > first  # their names are in their order
        days = [read_manifest(home / "snapshots" / name).created for name in (compacted, first)]
        assert days[0] < days[1]
        wait_for_snapshot(home, compacted)
        revision = client.items.upsert([NewItem("day30", {"title": "after the swap"})]).revision
        still_right(client, revision)
    assert current(home / "snapshots").name == compacted
    with served(home) as server, Client(server.grpc, ONCE) as client:
        still_right(client, revision)


def still_right(client: Client, revision: int) -> None:
    for item_id, title in (("day0", "before the clock"), ("day7", "after the clock 7"), ("day30", "after the swap")):
        assert client.recommend([text(title)], k=1, min_revision=revision).items[0].id == item_id
    assert "day1" not in [found.id for found in client.recommend([text("after the clock 1")], k=300).items]
