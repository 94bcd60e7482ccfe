from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recserve_server_ext.index.snapshot import Snapshot
from support.events import NOW, event
from support.small_snapshot import small_snapshot
from support.user_service import OTHERS, Service


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"), hidden=(5, 6))


@pytest.fixture
def service(snapshot: Snapshot, tmp_path: Path) -> Iterator[Service]:
    service = Service(snapshot, tmp_path / "store.db")
    yield service
    service.store.close()


@pytest.fixture
def anywhere(snapshot: Snapshot, store_place: Path | str) -> Iterator[Service]:
    """Over SQLite, and over PostgreSQL where there is one."""
    service = Service(snapshot, store_place)
    yield service
    service.store.close()


@pytest.fixture
def busy(service: Service) -> Service:
    """Others who turned to i20 also turned to i21 and i22; i150 is popular with those who did neither."""
    for n, user in enumerate(OTHERS):
        items = ["i20", "i21", "i22"][: 1 + n % 3] if n < 12 else ["i150", f"i{160 + n % 3}"]
        service.store.record([event(user, item=item, timestamp=NOW - 300 + n) for item in items])
    service.store.record([event(item="i20"), event(item="i9", timestamp=NOW - 90)])
    service.counter.count()
    return service
