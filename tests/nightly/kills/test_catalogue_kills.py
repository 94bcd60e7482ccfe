"""kill -9 at random moments: what was acknowledged is there, nothing is half there, and everything opens by itself."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from recserve_export.index import compact as index_compact
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.index.snapshot import Snapshot
from support.edited import ENCODER, Edited, item_vector

KILLS = 120
#: Items written at a time: a change is there with all of them or with none.
GROUP = 3


def write_and_compact(folder: Path, start: int, acknowledged: Connection) -> None:
    """Write numbered groups and compact after each fourth, for ever; tell of each when it is durable or compacted."""
    edited = Edited.reopened(folder, folder / "catalogue.db")
    number = start
    while True:
        items = [{"id": f"g{number % 7}.{part}", "texts": {"title": f"{number}"}} for part in range(GROUP)]
        if number % 5 == 4:
            items = [{"id": item["id"]} for item in items]
        revision = edited.change("delete" if number % 5 == 4 else "upsert", items, f"r{number}").revision
        acknowledged.send((number, revision))
        if number % 4 == 0:
            done = index_compact.compact(edited.store, edited.snapshots, folder, 1)
            acknowledged.send((number, -1 if done is None else done.revision))
        number += 1


def expected(upto: int) -> dict[str, str]:
    """What the store holds after the groups up to a number."""
    items: dict[str, str] = {}
    for number in range(upto + 1):
        for part in range(GROUP):
            items.pop(f"g{number % 7}.{part}", None)
            if number % 5 != 4:
                items[f"g{number % 7}.{part}"] = f"{number}"
    return items


def test_nothing_acknowledged_is_lost_and_nothing_is_half_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_compact, "TextEncoder", NoEncoder)
    Edited(tmp_path, tmp_path / "catalogue.db", items=4).store.close()
    rng = random.Random(7)
    forked = multiprocessing.get_context("fork")
    last = -1
    swaps = set()
    for kill in range(KILLS):
        ours, theirs = forked.Pipe(duplex=False)
        writer = forked.Process(target=write_and_compact, args=(tmp_path, last + 1, theirs), daemon=True)
        writer.start()
        theirs.close()
        # Wait until it writes, or now and then until it has compacted, then a little: the kill comes anywhere.
        for _ in range(5 if kill % 4 == 0 else 1):
            assert ours.poll(30)
            last, _ = ours.recv()
        time.sleep(rng.uniform(0, 0.06))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        while ours.poll():
            try:
                last, _ = ours.recv()
            except EOFError:
                break
        view = reopened(tmp_path)
        with CatalogueStore(tmp_path / "catalogue.db") as store:
            found = {item.id: item.texts["title"] for item in store.items() if item.id.startswith("g")}
            # The group that was being written when the kill came may be there, as a whole.
            assert found in (expected(last), expected(last + 1))
            if found != expected(last):
                last += 1
            assert view.revision == store.revision
        check(view, found)
        swaps.add(view.snapshot.manifest.id)
    assert last > KILLS
    assert len(swaps) > 10


def reopened(folder: Path) -> View:
    """What a server that starts now would serve."""
    store = CatalogueStore(folder / "catalogue.db")
    try:
        return LiveCatalogue(folder / "snapshots", partial(Snapshot.load, encoder=ENCODER), lambda: store).view()
    finally:
        store.close()


def check(view: View, found: dict[str, str]) -> None:
    """The view has exactly these groups, with their vectors."""
    for number in range(7):
        for part in range(GROUP):
            row = view.row_of.get(f"g{number}.{part}", -1)
            title = found.get(f"g{number}.{part}")
            assert (row >= 0) == (title is not None)
            if title is not None:
                assert view.available[row]
                np.testing.assert_allclose(
                    view.text.vectors(np.array([row]))[0], item_vector({"title": title}), atol=1e-6
                )


class NoEncoder:
    """Stands where `TextEncoder` does: every vector is there already."""

    fingerprint, dim = ENCODER, 16

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        pass

    def encode(self, texts: list[str], **_: object) -> None:
        raise AssertionError(f"encoded again: {texts}")
