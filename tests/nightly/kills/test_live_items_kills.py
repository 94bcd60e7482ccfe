"""Processes of a real Triton are killed while items are written: what was acknowledged is there, and is served."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, NewItem, text
from recserve_client.errors import RecserveError
from recserve_server_ext.catalogue.store import CatalogueStore
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton


@pytest.fixture
def live(tiny_home: Path, tmp_path: Path) -> Iterator[Served]:
    with served(copy_home(tiny_home, tmp_path / "home"), settings="compact_after = 50\n") as server:
        yield server


def film(item_id: str, title: str) -> NewItem:
    return NewItem(item_id, {"title": title})


def test_what_was_acknowledged_survives_kills(live: Served) -> None:
    """Stubs and the server are killed while items are written; afterwards every acknowledged one is there."""
    rng = random.Random(5)
    acknowledged: dict[str, str] = {}
    done, written = threading.Event(), threading.Event()

    def write() -> None:
        number = 0
        with Client(live.grpc, ClientOptions(tries=40, pause_s=0.5, deadline_s=60, seed=1)) as own:
            while not done.is_set():
                item_id, title = f"k{number % 40}", f"version {number}"
                try:
                    own.items.upsert([film(item_id, title)])
                except RecserveError:
                    # Not acknowledged: the same once more, until it is.
                    done.wait(0.1)
                    continue
                acknowledged[item_id] = title
                written.set()
                number += 1

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        try:
            for victim in ["items", "recommend", "items", "server"]:
                # A tritonserver may end, too, when a process is killed that holds a lock of theirs.
                recovered = ("server_restarted",) if victim == "server" else ("model_reloaded", "server_restarted")
                count = len(live.logged(*recovered)) + 1
                time.sleep(rng.uniform(0.2, 1.0))
                (live.triton() if victim == "server" else live.stub(victim)).kill()
                live.wait_for(*recovered, count=count, timeout_s=60)
            written.clear()
            assert written.wait(60)
        finally:
            done.set()
        writing.result(timeout=90)
    with CatalogueStore(live.home / "catalogue.db") as store:
        stored = {found.id: found.texts["title"] for found in store.items() if found.id in acknowledged}
    assert stored == acknowledged
    with Client(live.grpc, ClientOptions(tries=10, pause_s=0.5, deadline_s=30)) as own:
        for title in list(acknowledged.values())[:10]:
            assert own.recommend([text(title)], k=1).items[0].score == pytest.approx(1, abs=1e-5)
