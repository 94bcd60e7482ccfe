"""Interaction stores on SQLite and on a real PostgreSQL, and a key file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.interactions.key_file import KEY_VARIABLE, read_pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, Opener


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    if request.param == "sqlite":
        return tmp_path / "home" / "interactions.db"
    url: str = request.getfixturevalue("postgres").empty()
    return url


@pytest.fixture
def opened(where: Path | str) -> Iterator[Opener]:
    stores: list[InteractionStore] = []

    def open_store(now: float = NOW, **limits: Any) -> InteractionStore:
        stores.append(InteractionStore(where, InteractionLimits(**limits), create=True, clock=lambda: now))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener) -> InteractionStore:
    return opened()


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new key file; no key is given by the environment."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    path = tmp_path / "keys" / "pseudonym.key"
    read_pseudonyms(path, {})
    return path
