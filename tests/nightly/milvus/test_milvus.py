"""A catalogue that is searched by a real Milvus, served by a real Triton: changes, filters, compaction, kill -9."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_client import Client, ClientOptions, NewItem, RecommendRequest, Slate, item, text
from recserve_client.errors import InvalidRequest, RecserveError, Unavailable
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.milvus.collection import ALIAS
from recserve_server_ext.index.engines.milvus.connection import MilvusConnection
from recserve_server_ext.index.engines.milvus.engine import read_loaded
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.space import space_folder
from support.milvus import MilvusProcess
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def connection(milvus: MilvusProcess) -> MilvusConnection:
    return MilvusConnection(MilvusSettings(uri=milvus.uri, load_s=60))


@pytest.fixture(scope="module")
def home(tiny_home: Path, milvus: MilvusProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny home whose index is in Milvus."""
    home = copy_home(tiny_home, tmp_path_factory.mktemp("milvus") / "home")
    settings = Settings(engine="milvus", m=(16,), ef=(64, 128), users=20)
    build(Workspace(home), home / "encoder" / "fp32", settings, milvus=MilvusSettings(uri=milvus.uri))
    return home


@pytest.fixture(scope="module")
def live(home: Path, milvus: MilvusProcess) -> Iterator[Served]:
    settings = f'compact_after = 60\n[milvus]\nuri = "{milvus.uri}"\nconsistency = "Strong"\n'
    with served(home, settings=settings) as server:
        yield server


def film(item_id: str, title: str, **more: Any) -> NewItem:
    return NewItem(item_id, {"title": title}, **more)


def published(home: Path) -> tuple[Path, str]:
    """The snapshot that is served, and its collection."""
    folder = current(Workspace(home).snapshots)
    return folder, read_loaded(space_folder(folder)).collection


def in_milvus(connection: MilvusConnection, collection: str, where: str = "row >= 0") -> int:
    """How many rows of a collection match."""
    options = {"filter": where, "output_fields": ["count(*)"], "consistency_level": "Strong"}
    (found,) = connection.call("query", collection, timeout_s=10, **options)
    return int(found["count(*)"])


def until(done: Any, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def test_slates_are_the_exact_ones_and_say_who_searched(client: Client, home: Path) -> None:
    snapshot = Snapshot.load(published(home)[0])
    histories = [snapshot.ids[row] for row in range(0, 200, 10)]
    for one in histories:
        slate = client.recommend([item(one)], k=10)
        assert slate.timings.engine == "milvus"
        user = snapshot.text.vectors[snapshot.row_of[one]]
        scores = snapshot.text.vectors @ user
        scores[snapshot.row_of[one]] = -np.inf
        expected = np.sort(scores)[::-1][:10]
        np.testing.assert_allclose([found.score for found in slate.items], expected, atol=1e-5)


def test_filters_are_evaluated_there_or_refused(client: Client, home: Path) -> None:
    snapshot = Snapshot.load(published(home)[0])
    years = snapshot.fields.take(["year"], np.arange(len(snapshot.ids)))
    late = [row["year"] is not None and row["year"] >= 1990 for row in years]
    slate = client.recommend([text("space")], k=200, where="year >= 1990", fields=["year"], count=True)
    assert slate.count == sum(late)
    assert len(slate.items) == min(200, sum(late))
    assert all(isinstance(found.fields, dict) and found.fields["year"] >= 1990 for found in slate.items)
    with pytest.raises(InvalidRequest, match="within on 'year' cannot be evaluated by Milvus"):
        client.recommend([text("space")], where="within(year, 48.8, 2.3, 10km)")
    with pytest.raises(InvalidRequest, match="beyond 2\\^53"):
        client.recommend([text("space")], where="year < 9007199254740993")


def test_changes_are_in_the_next_answer_and_deletes_reach_milvus(
    client: Client, home: Path, connection: MilvusConnection
) -> None:
    folder, collection = published(home)
    snapshot = Snapshot.load(folder)
    client.items.upsert([film("new1", "a very particular new film", attributes={"year": 2026})])
    slate = client.recommend([text("a very particular new film")], k=3, where="year = 2026")
    assert [found.id for found in slate.items] == ["new1"]
    gone = snapshot.ids[7]
    before = in_milvus(connection, collection)
    changed = client.items.delete([gone, "new1"])
    found = client.recommend([text("film")], k=400, min_revision=changed.revision)
    assert not {gone, "new1"} & {one.id for one in found.items}
    assert len(found.items) == len(snapshot.ids) - 1
    until(lambda: in_milvus(connection, collection) == before - 1, "the row is still in Milvus")
    assert in_milvus(connection, collection, "row == 7") == 0


def test_milvus_is_killed_under_load(client: Client, live: Served, home: Path, milvus: MilvusProcess) -> None:
    """Typed errors while it is away, then answers again, nothing of ours restarted and no acknowledged item lost."""
    done, refused, unexpected = threading.Event(), threading.Event(), []
    acknowledged: list[str] = []

    def ask() -> None:
        with Client(live.grpc, ClientOptions(tries=1, deadline_s=20)) as own:
            while not done.is_set():
                try:
                    own.recommend([text("space")], k=5)
                except Unavailable as error:
                    if "Milvus" in str(error):
                        refused.set()
                except RecserveError as error:
                    unexpected.append(error)

    def write() -> None:
        with Client(live.grpc, ClientOptions(tries=1, deadline_s=20)) as own:
            while not done.is_set() and len(acknowledged) < 40:
                own.items.upsert([film(f"kill{len(acknowledged)}", f"film number {len(acknowledged)} of the crash")])
                acknowledged.append(f"kill{len(acknowledged)}")

    with ThreadPoolExecutor(5) as threads:
        work = [threads.submit(ask) for _ in range(4)]
        try:
            client.recommend([text("space")])
            milvus.kill()
            work.append(threads.submit(write))
            assert refused.wait(30)
            milvus.start()
            until(lambda: answers(live), "no answer after the restart", 90)
        finally:
            done.set()
        for future in work:
            future.result(timeout=60)
    assert unexpected == []
    assert len(acknowledged) > 0
    titles = [f"film number {number} of the crash" for number in range(len(acknowledged))]
    slates = client.recommend_many([RecommendRequest([text(title)], k=1) for title in titles])
    assert [slate.items[0].id for slate in slates if isinstance(slate, Slate)] == acknowledged
    # Every item of the snapshot is still found, by Milvus.
    snapshot = Snapshot.load(published(home)[0])
    ids = [one for row, one in enumerate(snapshot.ids) if row != 7]
    requests = [RecommendRequest([item(one)], k=1, exclude_history=False) for one in ids]
    slates = client.recommend_many(requests)
    scores = [slate.items[0].score for slate in slates if isinstance(slate, Slate)]
    assert len(scores) == len(ids)
    np.testing.assert_allclose(scores, 1, atol=1e-5)
    events = {entry["event"] for entry in live.events()}
    assert not events & {"server_exited", "server_restarted", "server_stuck", "model_reloaded"}


def answers(live: Served) -> bool:
    with Client(live.grpc, ClientOptions(tries=1, deadline_s=20)) as own:
        try:
            return bool(own.recommend([text("space")], k=5).items)
        except Unavailable:
            return False


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "recserve_client.cli.main", *arguments]
    return subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)


def test_compaction_loads_a_collection_and_moves_the_alias(
    client: Client, live: Served, home: Path, milvus: MilvusProcess, connection: MilvusConnection
) -> None:
    before, collection = published(home)
    assert connection.call("describe_alias", ALIAS, timeout_s=10)["collection_name"] == collection
    client.items.upsert([film(f"c{number}", f"compacted film {number}") for number in range(61)])
    live.wait_for("compacted", timeout_s=60)
    folder, newer = published(home)
    assert newer != collection
    assert connection.call("describe_alias", ALIAS, timeout_s=10)["collection_name"] == newer
    assert in_milvus(connection, newer) == len(Snapshot.load(folder).ids)
    until(lambda: client.recommend([text("compacted film 7")], k=1).items[0].id == "c7", "c7 is not found")
    # A collection that is gone is loaded again from the files of its snapshot.
    connection.call("drop_collection", collection, timeout_s=10)
    home_and_uri = ("--home", str(home), "--milvus-uri", milvus.uri)
    ran = run("index", "rollback", *home_and_uri)
    assert (ran.returncode, before.name in ran.stdout) == (0, True), ran.stdout + ran.stderr
    assert connection.call("describe_alias", ALIAS, timeout_s=10)["collection_name"] == collection
    # All but the one that was deleted since: the server that serves it now has it deleted again.
    there = len(Snapshot.load(before).ids) - 1
    until(lambda: in_milvus(connection, collection) == there, f"not {there} items are in Milvus")
    until(lambda: client.recommend([text("compacted film 7")], k=1).items[0].id == "c7", "c7 is not found")
    # One that was released from memory is loaded.
    connection.call("release_collection", newer, timeout_s=10)
    ran = run("index", "activate", folder.name, *home_and_uri)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert connection.call("describe_alias", ALIAS, timeout_s=10)["collection_name"] == newer
    assert in_milvus(connection, newer) == len(Snapshot.load(folder).ids)
    with CatalogueStore(Workspace(home).store) as store:
        assert store.count() == len(client.recommend([text("film")], k=1000, count=True).items)


def test_without_an_address_commands_and_server_say_what_to_set(home: Path) -> None:
    ran = run("index", "activate", published(home)[0].name, "--home", str(home))
    assert (ran.returncode, "or give --milvus-uri" in " ".join(ran.stderr.split())) == (1, True), ran.stderr
    ran = run("serve", "--home", str(home), "--grpc-port", "0", "--metrics-port", "0")
    assert ran.returncode == 1
    assert "set uri in the table [milvus]" in " ".join(ran.stderr.split())
