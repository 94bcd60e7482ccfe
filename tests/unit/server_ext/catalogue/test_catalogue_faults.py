"""A lock and a clock that is set back: nothing is lost, reading goes on, and writing comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from recserve_client.contract import RequestError
from recserve_server_ext.index import snapshot
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot_versions import kept, rollback
from support.edited import ENCODER, Edited
from support.lock import locked


def film(item_id: str, title: str) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}}


def test_a_store_locked_by_another_process_is_unavailable_and_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.1)
    path = tmp_path / "catalogue.db"
    edited = Edited(tmp_path, path)
    with locked(path):
        with pytest.raises(RequestError, match="another process is writing to it, try again"):
            edited.change("upsert", [film("a", "A")])
        assert edited.find(op="get", ids=["i1"]).items[0].texts == {"title": "film 1"}
    assert edited.statuses("upsert", film("a", "A")) == ["created"]
    edited.store.close()


def test_a_clock_that_is_set_back_changes_no_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    first = current(edited.snapshots).name

    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Yesterday:
            return cls.fromtimestamp((datetime.now(UTC) - timedelta(days=1)).timestamp(), tz)

    monkeypatch.setattr(snapshot, "datetime", Yesterday)
    revision = edited.change("delete", [{"id": "i0"}]).revision
    second = edited.publish().name
    assert [one.name for one in kept(edited.snapshots)] == [second, first]
    assert edited.change("delete", [{"id": "i1"}]).revision == revision + 1
    assert rollback(edited.snapshots, ENCODER).id == first
    edited.store.close()
