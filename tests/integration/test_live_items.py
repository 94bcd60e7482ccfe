"""The catalogue changes while it is served: over a real Triton, what was acknowledged is served, and stays."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recserve_client import Client, ClientOptions, NewItem, OldItem, Page, interaction, item, text
from recserve_client.errors import (
    AlreadyExists,
    DeadlineExceeded,
    ExpiredCursor,
    InvalidRequest,
    StaleRevision,
    Unavailable,
    UnknownItem,
)
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.manifest import read_manifest
from support.lock import locked
from support.served import Served, wait_for_snapshot
from support.wire import Wire

pytestmark = pytest.mark.triton
QUICK = Settings(engine="hnsw", m=(16,), ef=(64, 128), users=20)


def film(item_id: str, title: str, **more: Any) -> NewItem:
    return NewItem(item_id, {"title": title}, **more)


def titles(client: Client, query: str, k: int = 5, **options: Any) -> list[str]:
    return [found.id for found in client.recommend([text(query)], k=k, **options).items]


def test_a_new_item_is_in_the_next_answer_and_a_deleted_one_never_again(client: Client) -> None:
    changed = client.items.upsert([film("new1", "a very particular new film", attributes={"year": 2026})])
    assert [result.status for result in changed.results] == ["created"]
    slate = client.recommend(
        [text("a very particular new film")], k=3, fields=["title", "year"], min_revision=changed.revision
    )
    assert slate.revision == changed.revision
    assert slate.items[0].id == "new1"
    assert slate.items[0].score == pytest.approx(1, abs=1e-5)
    assert slate.items[0].fields == {"title": "a very particular new film", "year": 2026}
    assert client.recommend([item("new1")], k=1).items[0].id != "new1"
    deleted = client.items.delete(["new1"])
    assert "new1" not in titles(client, "a very particular new film", 300, min_revision=deleted.revision)
    with pytest.raises(UnknownItem, match="new1"):
        client.recommend([item("new1")])


def test_contributions_over_changed_items_add_up(client: Client) -> None:
    client.items.upsert([film("sum1", "one more film about water"), film("sum2", "a film about fire")])
    slate = client.recommend([item("sum1"), text("fire", 0.5), item("sum2", -0.25)], k=20, exclude_history=False)
    for found in slate.items:
        assert sum(found.contributions or []) == pytest.approx(found.score, abs=1e-5)
    assert "sum1" in [found.id for found in slate.items]


def test_hidden_items_come_back(client: Client) -> None:
    client.items.upsert([film("hide1", "hide and seek", available=False)])
    assert "hide1" not in titles(client, "hide and seek", 300)
    client.items.upsert([film("hide1", "hide and seek")])
    assert titles(client, "hide and seek")[0] == "hide1"


def metrics(live: Served) -> dict[str, float]:
    """Our metrics, each under its name with its labels."""
    with urllib.request.urlopen(f"http://{live.metrics}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {line.split()[0]: float(line.split()[-1]) for line in lines if line.startswith("recserve_")}


def wait_until(live: Served, name: str, value: float) -> None:
    """Wait until a metric has at least a value."""
    deadline = time.monotonic() + 30
    while metrics(live).get(name, 0.0) < value:
        assert time.monotonic() < deadline, metrics(live)
        time.sleep(0.02)


WAITING = "recserve_revision_waiting_requests"


def test_a_request_waits_for_its_revision_in_every_model_that_answers_from_the_catalogue(
    client: Client, live: Served
) -> None:
    """Nobody waits with it, and the change that brings the revision is in the answer."""
    wanted = client.items.upsert([film("wait0", "waited for")]).revision + 1
    waited = metrics(live)["recserve_revision_waited_total"]
    asks = (
        lambda: client.recommend([item("wait0")], k=1, min_revision=wanted),
        lambda: client.recommend([text("waited for it by a text")], k=1, min_revision=wanted),
        lambda: client.recommend_text(["waited for"], k=1, min_revision=wanted),
        lambda: client.recommend_for("nobody", k=1, min_revision=wanted),
    )
    with ThreadPoolExecutor(len(asks)) as threads:
        asking = [threads.submit(ask) for ask in asks]
        wait_until(live, "recserve_revision_waited_total", waited + len(asks))
        assert client.recommend([item("wait0")], k=1).revision < wanted
        assert client.items.upsert([film("wait1", "waited for")]).revision == wanted
        slates = [asked.result(30) for asked in asking]
    assert all(slate.revision >= wanted for slate in slates)
    assert slates[0].items[0].id == "wait1"
    assert metrics(live)[WAITING] == 0


def test_a_later_revision_than_there_is_is_refused_after_a_deadline(client: Client, live: Served) -> None:
    before = metrics(live)
    with pytest.raises(StaleRevision, match=r"min_revision is 1000000, .* waited 1,500 ms") as caught:
        client.recommend([text("x")], min_revision=1_000_000)
    assert caught.value.status == "UNAVAILABLE"
    after = metrics(live)
    # The client, which may try ten times, asked once.
    assert after["recserve_revision_waited_total"] == before["recserve_revision_waited_total"] + 1
    expired = 'recserve_revision_refused_total{reason="expired"}'
    assert after[expired] == before[expired] + 1


def test_a_caller_that_gives_up_leaves_and_only_so_many_wait(live: Served) -> None:
    gone = 'recserve_revision_refused_total{reason="cancelled"}'
    before = metrics(live)[gone]
    with Client(live.grpc, ClientOptions(tries=1)) as once:
        with ThreadPoolExecutor(8) as threads:
            asking = [threads.submit(once.recommend, [text("x")], min_revision=10**6, deadline_s=1.0) for _ in range(8)]
            wait_until(live, WAITING, 8)
            with pytest.raises(Unavailable, match="8 requests wait already") as full:
                once.recommend([text("x")], min_revision=10**6)
            assert not isinstance(full.value, StaleRevision)
            for asked in asking:
                with pytest.raises(DeadlineExceeded):
                    asked.result(30)
        wait_until(live, gone, before + 8)
        assert once.recommend([text("x")], k=1).items


def test_an_attribute_has_one_type_in_the_catalogue(client: Client, live: Served) -> None:
    made = [
        film("at1", "a typed film", attributes={"length_min": 90}),
        film("at2", "x", attributes={"length_min": 1.5}),
    ]
    assert {result.status for result in client.items.upsert(made).results} == {"created"}
    (refused,) = client.items.upsert([film("at3", "x", attributes={"length_min": "90"})]).results
    assert (refused.id, refused.status, refused.kind) == ("at3", "refused", "attribute_type")
    for part in ("'at3'", "$.attributes.length_min is '90', a string", "2 available items have a number there"):
        assert part in refused.error
    found = client.recommend([text("typed film")], where="length_min > 80", count=True)
    assert ([item.id for item in found.items], found.count) == (["at1"], 1)
    client.items.delete(["at1", "at2"])
    assert client.items.upsert([film("at3", "x", attributes={"length_min": "90"})]).results[0].status == "created"


def test_texts_alone_have_pages_and_a_count(client: Client) -> None:
    changed = client.items.upsert([film(f"p{n}", f"a film of pages {n}", attributes={"page": n}) for n in range(9)])
    options: dict[str, Any] = {"k": 7, "where": "page >= 0", "min_revision": changed.revision, "count": True}
    whole = client.recommend_text(["a film of pages"], **options)
    assert (whole.count, len(whole.items)) == (9, 7)
    first = client.recommend_text(["a film of pages"], page=Page(3), **options)
    assert isinstance(first.cursor, str)
    client.items.delete([whole.items[4].id])
    second = client.recommend_text(["a film of pages"], page=Page(3, first.cursor), **options)
    left = [found.id for found in whole.items if found.id != whole.items[4].id]
    # The one that went away makes room for the next.
    assert [found.id for found in [*first.items, *second.items]] == left
    assert second.cursor is msgspec.UNSET
    with pytest.raises(ExpiredCursor):
        client.recommend_text(["another text"], page=Page(3, first.cursor), **options)


def test_items_are_read_back(client: Client) -> None:
    changed = client.items.upsert([film("get1", "to be read", attributes={"tags": ["a", "b"], "price": 1.5})])
    found = client.items.get(["get1", "nowhere"])
    assert found.missing == ["nowhere"]
    assert found.items[0].attributes == {"tags": ["a", "b"], "price": 1.5}
    assert found.items[0].revision == changed.revision
    page = client.items.list(limit=2)
    assert len(page.items) == 2
    assert client.items.list(after=page.next, limit=2).items[0].id > page.items[1].id


def test_conflicts_replays_and_bad_items(client: Client, live: Served) -> None:
    first = client.items.upsert([film("c1", "conflict")], request_id="one")
    assert client.items.upsert([film("c1", "conflict")], request_id="one").is_replay
    with pytest.raises(AlreadyExists, match="'one'"):
        client.items.upsert([film("c1", "another")], request_id="one")
    stale = client.items.delete([OldItem("c1", if_revision=first.revision - 1), OldItem("c1")])
    assert [result.status for result in stale.results] == ["conflict", "refused"]
    answer = Wire(live.grpc).ask(
        "items",
        {"op": "upsert", "items": [{"id": "bad", "texts": {"titel": "x"}}, {"id": "ok", "texts": {"title": "y"}}]},
    )
    assert [result["status"] for result in answer["results"]] == ["refused", "created"]
    assert "did you mean 'title'" in answer["results"][0]["error"]
    client.items.upsert([film("typed", "a typed film", attributes={"year": 1999})])
    (refused,) = client.items.upsert([film("typed", "a typed film", attributes={"year": "1999"})]).results
    assert refused.status == "refused"
    assert "$.attributes.year is '1999', a string; the item has a number there, 1999" in refused.error
    assert client.items.get(["typed"]).items[0].attributes == {"year": 1999}
    with pytest.raises(InvalidRequest, match="items"):
        client.items.upsert([])


def test_texts_alone_are_filtered_too(client: Client) -> None:
    client.items.upsert([film(f"y{year}", "a filtered film", attributes={"year": year}) for year in (2090, 2091)])
    for ask in (
        client.recommend_text(["a filtered film"], where="year >= 2091"),
        client.recommend([text("a filtered film")], where="year >= 2091"),
    ):
        assert [found.id for found in ask.items] == ["y2091"]


def test_many_items_at_once(client: Client) -> None:
    changed = client.items.upsert([film(f"many{n}", f"film about number {n}") for n in range(3000)])
    assert {result.status for result in changed.results} == {"created"}
    assert titles(client, "film about number 1234", min_revision=changed.revision)[0] == "many1234"
    assert {r.status for r in client.items.delete([f"many{n}" for n in range(3000)]).results} == {"deleted"}


def test_a_new_index_is_swapped_in_under_load_without_a_failure(client: Client, live: Served, home: Path) -> None:
    client.items.upsert([film("swap1", "before the swap")])
    before = client.server_info().revision
    done = threading.Event()

    def ask(seed: int) -> int:
        asked = 0
        with Client(live.grpc, ClientOptions(tries=1, deadline_s=30)) as own:
            while not done.is_set():
                slate = own.recommend([text("before the swap")], k=3)
                assert slate.items[0].id == "swap1"
                assert slate.revision >= before
                asked += 1
        return asked

    with ThreadPoolExecutor(4) as threads:
        asking = [threads.submit(ask, seed) for seed in range(4)]
        try:
            built = build(Workspace(home), home / "encoder" / "fp32", QUICK)
            assert built.is_new
            wait_for_snapshot(home, built.folder.name)
        finally:
            done.set()
        assert all(future.result() > 0 for future in asking)
    assert titles(client, "before the swap")[0] == "swap1"


def test_enough_changes_are_compacted_in_the_background(home: Path, live: Served, client: Client) -> None:
    count, done = len(live.logged("compacted")), 0
    changed = client.items.upsert([film(f"c{n}", f"compacted film {n}") for n in range(60)])
    while done < changed.revision:  # one that began before may end first
        count += 1
        snapshot = live.wait_for("compacted", count=count, timeout_s=60)[-1]["snapshot"]
        done = read_manifest(home / "snapshots" / snapshot).revision
    wait_for_snapshot(home, snapshot)
    assert done >= client.items.get(["c1"]).items[0].revision
    assert titles(client, "compacted film 7")[0] == "c7"


def test_metrics_follow_the_catalogue(live: Served, client: Client) -> None:
    revision = client.items.upsert([film("metric1", "a film for the metrics")]).revision
    client.recommend([text("x")], min_revision=revision)
    values = metrics(live)
    assert values["recserve_catalogue_revision"] == revision
    for model in ("recommend", "items"):
        assert values[f'recserve_encoder_waiting_requests{{model="{model}"}}'] == 0
    assert {"recserve_answers_waiting", "recserve_catalogue_revision_lag"} < set(values)
    assert abs(values["recserve_catalogue_store_read_timestamp_seconds"] - time.time()) < 3600
    assert 1 <= values["recserve_catalogue_delta_items"] <= revision
    assert values["recserve_catalogue_snapshot_items"] >= 299
    made = values["recserve_catalogue_snapshot_created_timestamp_seconds"]
    assert abs(made - time.time()) < 3600
    assert values['recserve_space_created_timestamp_seconds{space="text"}'] == made


def test_interactions_that_wait_for_a_locked_store_are_counted(live: Served, client: Client, home: Path) -> None:
    name = "recserve_interactions_waiting"
    assert client.interactions.record([interaction("ann", "view", "a film")]).results
    acts = [interaction("ann", "view", f"film {n}") for n in range(5)]
    with ThreadPoolExecutor(1) as threads:
        with locked(home / "interactions.db"):
            asked = threads.submit(client.interactions.record, acts)
            wait_until(live, name, 5)
        assert {result.status for result in asked.result(30).results} == {"recorded"}
    deadline = time.monotonic() + 30
    while metrics(live)[name]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def run(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "recserve_client.cli.main", *arguments]
    return subprocess.run(program, capture_output=True, text=True, input=stdin, timeout=120, check=False)


def test_the_commands_change_and_export(home: Path, live: Served, client: Client, tmp_path: Path) -> None:
    lines = '{"id": "cli1", "texts": {"title": "from the command line"}}\n\n{"id": "cli2", "texts": {"titel": "x"}}\n'
    ran = run("catalogue", "upsert", "-", "--address", live.grpc, stdin=lines)
    assert (ran.returncode, "1 created, 1 refused; revision" in ran.stdout) == (1, True), ran.stderr
    assert "cli2" in ran.stderr
    assert "did you mean 'title'" in " ".join(ran.stderr.split())
    assert titles(client, "from the command line")[0] == "cli1"
    out = tmp_path / "items.jsonl"
    ran = run("catalogue", "export", str(out), "--home", str(home))
    assert (ran.returncode, ran.stderr) == (0, "")
    exported = {line["id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert exported["cli1"] == {"id": "cli1", "texts": {"title": "from the command line"}}
    ran = run("catalogue", "upsert", str(out), "--address", live.grpc)
    assert f"{len(exported):,} unchanged" in ran.stdout, ran.stdout + ran.stderr
    ran = run("catalogue", "delete", "cli1", "nowhere", "--address", live.grpc)
    assert "1 absent, 1 deleted" in ran.stdout
    ran = run("catalogue", "upsert", "-", "--address", live.grpc, stdin="[1]\n")
    assert (ran.returncode, "line 1 is no item" in ran.stderr) == (1, True)
    ran = run("index", "list", "--home", str(home))
    assert (ran.returncode, "*" in ran.stdout) == (0, True)
    ran = run("index", "verify", "--home", str(home))
    assert (ran.returncode, "damaged" in ran.stdout) == (0, False)
