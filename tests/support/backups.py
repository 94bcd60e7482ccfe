"""A home to back up, with two users, and what it holds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from recserve_server_ext.backup.create import create
from recserve_server_ext.backup.manifest import BackupManifest
from recserve_server_ext.backup.restore import Restored, restore
from recserve_server_ext.backup.sealing import Plain, Sealed
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.ledger import Ledger
from recserve_server_ext.interactions.store import InteractionStore
from support.events import event

KEY = Sealed(bytes(range(32)))
OTHER_KEY = Sealed(bytes(32))
SETTINGS = ServeSettings()


def store_of(workspace: Workspace, where: Path | str = "") -> InteractionStore:
    """The interaction store of a home with its keys and its ledger, as a process that starts now has them."""
    keys = UserKeys(lambda: read_pseudonyms(workspace.pseudonym_key))
    place, ledger = where or workspace.interactions, Ledger(workspace.erasures)
    store = InteractionStore(place, create=True, keys=keys, ledger=ledger)
    keys.settle(store.database)
    return store


def record(workspace: Workspace, user: str, *items: str, where: Path | str = "", **fields: Any) -> None:
    """A user views items, a minute ago unless told otherwise."""
    fields = {"timestamp": time.time() - 60, **fields}
    with store_of(workspace, where) as store:
        assert store.keys is not None
        store.record([event(store.keys.pseudonyms.of(user), item, **fields) for item in items])


def erase(workspace: Workspace, user: str, where: Path | str = "") -> None:
    with store_of(workspace, where) as store:
        assert store.keys is not None
        store.erase(store.keys.pseudonyms.of(user))


def held(workspace: Workspace, user: str, where: Path | str = "") -> list[str]:
    """Items of the user's interactions."""
    with store_of(workspace, where) as store:
        assert store.keys is not None
        return [row["item"] for row in store.export(store.keys.pseudonyms.of(user))["interactions"]]


def backup(workspace: Workspace, folder: Path, sealing: Plain | None = None, **settings: Any) -> BackupManifest:
    return create(workspace, ServeSettings(**settings), folder, sealing or Plain(), {})


def back(folder: Path, home: Path, sealing: Plain | None = None, backup: str = "", **given: Any) -> Restored:
    """Restore the newest backup, or another one."""
    given = {"places": {}, "ledgers": (), **given}
    return restore(folder, backup, sealing or Plain(), Workspace(home), given["places"], given["ledgers"])
