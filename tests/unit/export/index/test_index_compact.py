"""Compaction: a new snapshot that equals the store, made without encoding what was encoded before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_export.index import compact as index_compact
from recserve_export.index.compact import compact
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import CatalogueError, SnapshotError
from recserve_server_ext.index.engines.scan import LEAST_ITEMS, ScanEngine
from recserve_server_ext.index.engines.scan_fit import FITTED, Fit
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.space import TEXT, space_folder
from recserve_server_ext.supervisor.compactor import Compactor
from recserve_server_ext.supervisor.event_log import EventLog
from support.edited import DIM, ENCODER, Edited, item_vector


class Encoder:
    """Stands where `TextEncoder` does; it must not be asked."""

    fingerprint, dim = ENCODER, DIM

    def __init__(self, folder: Path, *, threads: int | None = None) -> None:
        pass

    def encode(self, texts: list[str], **_: Any) -> Any:
        raise AssertionError(f"encoded again: {texts}")


@pytest.fixture
def edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edited]:
    monkeypatch.setattr(index_compact, "TextEncoder", Encoder)
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    yield edited
    edited.store.close()


def film(item_id: str, title: str, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}, **more}


def run(edited: Edited) -> Snapshot | None:
    done = compact(edited.store, edited.snapshots, Path("encoder"), 1)
    return None if done is None else Snapshot.load(edited.snapshots / done.id, encoder=ENCODER)


def test_the_new_snapshot_is_the_store(edited: Edited) -> None:
    edited.change("upsert", [film("a", "new"), film("i1", "changed"), film("i2", "film 2", available=False)])
    edited.change("delete", [{"id": "i3"}])
    snapshot = run(edited)
    assert snapshot is not None
    items = list(edited.store.items())
    assert list(snapshot.ids) == [item.id for item in items]
    np.testing.assert_allclose(snapshot.text.vectors, [item_vector(item.texts) for item in items], atol=1e-6)
    assert snapshot.available.tolist() == [item.available for item in items]
    assert snapshot.manifest.revision == edited.store.revision == 3
    assert snapshot.manifest.text.engine.parameters == {"M": 16, "ef_construction": 100, "ef": 200}
    assert run(edited) is None


def test_codes_stay_fitted_to_the_same_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_compact, "TextEncoder", Encoder)
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=LEAST_ITEMS + 5)
    fits: list[Fit] = []

    def scan(vectors: Vectors) -> ScanEngine:
        fits.append(Fit.to(vectors[:50], vectors, rank=8))
        return ScanEngine.build(vectors, fits[-1], lists=2, codes=4, nprobe=2, rescored=200, threads=1)

    edited.publish(build=scan)
    edited.change("upsert", [film("a", "new")])
    snapshot = run(edited)
    edited.store.close()
    assert snapshot is not None
    assert (snapshot.text.engine.name, "a" in snapshot.row_of) == ("scan", True)
    assert f"spaces/{TEXT}/{FITTED}" in snapshot.manifest.files
    kept = Fit.load(space_folder(edited.snapshots / snapshot.manifest.id), DIM)
    np.testing.assert_array_equal(np.stack(kept), np.stack(fits[0]))
    rows, _ = snapshot.text.engine.search(snapshot.text.vectors[:50], 1)
    assert rows[:, 0].tolist() == list(range(50))


def test_codes_are_trained_anew_once_a_tenth_was_coded_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_compact, "TextEncoder", Encoder)
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=LEAST_ITEMS + 100)

    def scan(vectors: Vectors) -> ScanEngine:
        fit = Fit.to(vectors[:50], vectors, rank=8)
        return ScanEngine.build(vectors, fit, lists=2, codes=4, nprobe=2, rescored=200, threads=1)

    edited.publish(build=scan)
    added = []
    for first in (0, 30, 60):
        edited.change("upsert", [film(f"i{number}", f"changed {number}") for number in range(first, first + 30)])
        snapshot = run(edited)
        assert snapshot is not None
        added.append(snapshot.text.engine.parameters.get("added"))
        rows, _ = snapshot.text.engine.search(snapshot.text.vectors, 1)
        assert rows[:, 0].tolist() == list(range(len(snapshot.ids)))
    edited.store.close()
    assert added == [30, 60, None]


def test_what_only_older_snapshots_need_is_forgotten(edited: Edited) -> None:
    edited.change("upsert", [film("a", "new")])
    edited.change("delete", [{"id": "i3"}])
    first = read_manifest(current(edited.snapshots))
    run(edited)
    # The one before is still there: going back to it needs all that changed since.
    assert edited.store.changes_since(first.revision, "").removed == ["i3"]
    edited.change("upsert", [film("b", "later")])
    run(edited)
    edited.change("upsert", [film("c", "last")])
    run(edited)
    with pytest.raises(CatalogueError, match="has forgotten"):
        edited.store.changes_since(first.revision, "")


def test_a_snapshot_of_another_store_is_refused(edited: Edited, tmp_path: Path) -> None:
    other = Edited(tmp_path / "other", tmp_path / "other.db")
    with pytest.raises(SnapshotError, match="another catalogue"):
        compact(other.store, edited.snapshots, Path("encoder"))
    other.store.close()


class TestCompactor:
    def compactor(self, edited: Edited, script: str, after: int = 3) -> tuple[Compactor, StringIO]:
        log = StringIO()
        command = [sys.executable, "-c", script]
        return Compactor(
            edited.snapshots, lambda: edited.store, command, after, EventLog(as_json=False, stream=log)
        ), log

    def finish(self, compactor: Compactor) -> None:
        assert compactor._command._process is not None
        compactor._command._process.wait(30)
        compactor.check()

    def test_it_starts_when_enough_has_changed(self, edited: Edited) -> None:
        compactor, log = self.compactor(edited, "")
        edited.change("upsert", [film("a", "A"), film("b", "B")])
        compactor.check()
        assert log.getvalue() == ""
        edited.change("delete", [{"id": "i1"}])
        compactor.check()
        assert "compaction_started changes=3" in log.getvalue()
        self.finish(compactor)
        assert f"compacted snapshot={current(edited.snapshots).name}" in log.getvalue()

    def test_a_failure_is_told_and_not_repeated_at_once(self, edited: Edited) -> None:
        compactor, log = self.compactor(edited, "import sys; sys.exit('no room')", after=1)
        edited.change("delete", [{"id": "i1"}])
        compactor.check()
        self.finish(compactor)
        compactor.check()
        assert log.getvalue().count("compaction_started") == 1
        assert "compaction_failed fault=no room" in log.getvalue()

    def test_it_ends_with_the_server(self, edited: Edited) -> None:
        compactor, _ = self.compactor(edited, "import time; time.sleep(600)", after=1)
        edited.change("delete", [{"id": "i1"}])
        compactor.check()
        process = compactor._command._process
        assert process is not None
        compactor.stop()
        assert process.poll() is not None
