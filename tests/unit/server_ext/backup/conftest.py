"""A small home whose files stand for encoder, snapshots and spaces; its stores are real."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from support.backups import record


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made = Workspace(tmp_path / "home")
    version = made.encoder / "versions" / "0001-fp32-0123456789abcdef"
    version.mkdir(parents=True)
    (version / "model.onnx").write_bytes(bytes(5_000_000))
    (made.encoder / "fp32").symlink_to(Path("versions") / version.name)
    for name in ("run/8001/triton.log", "encoding/journal", ".hidden", "spaces/TRAINING.json", "evaluation.json"):
        path = made.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    with CatalogueStore(made.store, create=True) as store:
        store.replace_all([StoredItem(f"i{n}", {"title": f"film {n}"}, {}, True) for n in range(50)], field_weights={})
    record(made, "ann", "i1", "i2")
    record(made, "bob", "i3")
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where backups go."""
    return tmp_path / "backups"
