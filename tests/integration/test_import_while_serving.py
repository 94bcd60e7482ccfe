"""Imports beside a serving process: writers take turns, the swap is atomic, and no request fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recserve_client import Client, ClientOptions, item, text
from recserve_export.cli import interactions
from recserve_export.cli.catalogue import commands as catalogue
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.interactions import importer
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.store import InteractionStore
from support.load import Recording
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
ROWS = 6000
BATCH = 500


def asking(server: Served, known: str, is_over: threading.Event) -> tuple[int, set[int]]:
    """Ask for slates of an item that stays; the number of answers, and the revisions they were made from."""
    count, revisions = 0, set[int]()
    with Client(server.grpc, ClientOptions(tries=1, deadline_s=30)) as client:
        while not is_over.is_set():
            slate = client.recommend([item(known), text("a film about water")], k=5, fields=["title"])
            assert len(slate.items) == 5
            revisions.add(slate.revision)
            count += 1
            client.recommend_for(f"reader {count % 50}", k=3)
    return count, revisions


def test_imports_beside_a_server(
    tiny_home: Path, films: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "_BATCH", BATCH)
    monkeypatch.setattr(importer, "_CHUNK", BATCH)
    home = copy_home(tiny_home, tmp_path / "home")
    log, items = tmp_path / "log.csv", tmp_path / "items.csv"
    log.write_text(
        "user_id,item_id,timestamp\n"
        + "".join(f"u{n % 97},{films[n % 200]},{1_700_000_000 + n}\n" for n in range(ROWS))
    )
    items.write_text("id,title\n" + "".join(f"{name},New title {n} of a film\n" for n, name in enumerate(films)))
    is_over = threading.Event()
    with served(home) as server, Recording([server.grpc]) as recording, ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(asking, server, films[3], is_over) for _ in range(2)]
        try:
            with InteractionStore(Workspace(home).interactions) as store:
                before = store.revision
            done = CliRunner().invoke(interactions.app, ["import", str(log), "--type", "click", "--home", str(home)])
            assert f"recorded {ROWS:,} interactions" in done.output, done.output
            with InteractionStore(Workspace(home).interactions) as store:
                # A transaction for each batch, so that those of the server come between them.
                assert store.revision - before >= ROWS // BATCH
            count = len(recording.acknowledged)
            recording.wait(lambda: len(recording.acknowledged) > count)
            done = CliRunner().invoke(catalogue.app, ["import", str(items), "--text", "title", "--home", str(home)])
            assert done.exit_code == 0, done.output
            with CatalogueStore(Workspace(home).store) as store_of_items:
                revision = store_of_items.revision
            built = build(
                Workspace(home), home / "encoder" / "fp32", Settings(engine="hnsw", m=(16,), ef=(64, 128), users=20)
            )
            assert built.is_new
            with Client(server.grpc, ClientOptions(deadline_s=60, tries=1)) as client:
                slate = client.recommend([text("New title")], k=3, fields=["title"])
                while slate.revision < revision:
                    slate = client.recommend([text("New title")], k=3, fields=["title"])
            assert all(isinstance(one.fields, dict) and "New title" in one.fields["title"] for one in slate.items)
        finally:
            is_over.set()
        answers = [reader.result(60) for reader in readers]
        assert recording.refused == []
    assert all(count > 0 for count, _ in answers)
    assert all(revisions <= {1, revision} for _, revisions in answers)
    with InteractionStore(Workspace(home).interactions) as store:
        found = store.stats()
    assert found.interactions == ROWS + len(recording.acknowledged)
