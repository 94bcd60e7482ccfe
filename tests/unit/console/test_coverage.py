"""What is never recommended: available items of the snapshot that no logged answer has."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_console.home.coverage import not_recommended
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.store import InteractionStore
from support.answers import log_of, plain
from support.small_snapshot import small_snapshot


def test_items_that_no_answer_has(tmp_path: Path) -> None:
    home = Workspace(tmp_path)
    with pytest.raises(SnapshotError):
        not_recommended(tmp_path)
    snapshot = small_snapshot(home.snapshots, hidden=(5, 6))
    with InteractionStore(home.interactions, create=True) as store:
        assert not_recommended(tmp_path)[:3] == (0, 198, 198)
        log = log_of(store, plain=1.0)
        log.offer(plain("r1", ["i0", "i2", "gone"]), None)
        log.offer(plain("r2", ["i2", "i3"]), None)
        log.close()
    found = not_recommended(tmp_path)
    assert (found.answers, found.available, found.items) == (2, 198, 195)
    assert found.ids == [item for item in snapshot.ids if item not in ("i0", "i2", "i3", "i5", "i6")][:50]
