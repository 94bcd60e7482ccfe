"""Backups of stores in a real PostgreSQL: dumped as of one moment, restored into empty databases."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_server_ext.backup.verify import verify
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.common.errors import BackupError, CatalogueError, InteractionError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import UserSettings
from support.backups import KEY, back, backup, erase, held, record
from support.postgres import Postgres


def test_stores_in_postgresql_come_back_in_other_databases(
    workspace: Workspace, folder: Path, tmp_path: Path, postgres: Postgres
) -> None:
    url = postgres.empty()
    users = UserSettings(store=url)
    with CatalogueStore(url, create=True) as store:
        store.replace_all([StoredItem("i1", {"title": "one"}, {}, True)], field_weights={"title": 1.0})
    for number in range(30):
        record(workspace, "ann", f"i{number}", where=url)
    record(workspace, "bob", "i3", where=url)
    backup(workspace, folder, KEY, store=url, users=users)
    verify(folder, "", KEY)
    erase(workspace, "bob", where=url)
    new = Workspace(tmp_path / "new")
    new.home.mkdir()
    new.pseudonym_key.write_bytes(workspace.pseudonym_key.read_bytes())
    new.pseudonym_key.chmod(0o600)
    with pytest.raises(BackupError, match="was in PostgreSQL: name an empty database for it"):
        back(folder, new.home, KEY)
    other = postgres.another("restored")
    found = back(
        folder, new.home, KEY, places={"catalogue": other, "interactions": other}, ledgers=[workspace.erasures]
    )
    assert found.erased == 1
    assert not list(new.home.rglob("*.dump"))
    assert not new.store.exists()
    with CatalogueStore(other) as store:
        assert [item.texts for item in store.items()] == [{"title": "one"}]
    assert (len(held(new, "ann", other)), held(new, "bob", other)) == (30, [])
    record(new, "ann", "more", where=other)  # the numbers go on
    assert held(new, "ann", other)[-1] == "more"
    third = tmp_path / "third"
    with pytest.raises(CatalogueError, match=r"has a table .* already; name an empty one"):
        back(folder, third, KEY, places={"catalogue": other, "interactions": other})
    assert not third.exists()


def test_a_server_that_is_away_is_one_line(workspace: Workspace, folder: Path) -> None:
    away = UserSettings(store="postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(InteractionError) as caught:
        backup(workspace, folder, users=away)
    assert "secret" not in str(caught.value)
    assert not list(folder.glob("*.json"))
