"""Restores a backup into an empty home, and erases again who was erased since."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from recserve_client.contract import ModelTrace
from recserve_server_ext.backup.blocks import Blocks
from recserve_server_ext.backup.create import LEDGER, explained
from recserve_server_ext.backup.erased_again import erase_again
from recserve_server_ext.backup.manifest import BackupManifest, File, StoreState, Tree, read_manifest
from recserve_server_ext.backup.sealing import Plain
from recserve_server_ext.backup.verify import read_tree
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.catalogue.tables import SCHEMA as CATALOGUE
from recserve_server_ext.common.errors import BackupError
from recserve_server_ext.common.files import new_folder
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.manifest import read_manifest as read_snapshot
from recserve_server_ext.interactions.key_file import given_keys, read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.ledger import Ledger, Note
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import SCHEMA as INTERACTIONS
from recserve_server_ext.services.model_traces import model_traces
from recserve_server_ext.storage.dumps import load_dump

_DUMPS: Final = ".dumps"
_SCHEMAS: Final = {"catalogue": CATALOGUE, "interactions": INTERACTIONS}


class Restored(NamedTuple):
    """What was restored.

    Attributes:
        erased: Users of the backup who were erased again.
        traces: Trained models of the backup that may hold a trace of them.
        ring: Fingerprint of the keys that the interaction store needs; empty where the keys are there.
    """

    manifest: BackupManifest
    tree: Tree
    erased: int
    traces: list[ModelTrace]
    ring: str


def restore(
    folder: Path,
    backup: str,
    sealing: Plain,
    workspace: Workspace,
    places: Mapping[str, str],
    ledgers: Sequence[Path] = (),
    on_progress: Callable[[int], None] = lambda size: None,
) -> Restored:
    """Restore a backup, or the newest one for an empty id.

    The home is written aside and takes its place in one step, after the stores have opened and the ledgers are applied.

    Args:
        workspace: The home; it must not exist, or hold only the keys of the pseudonyms and a ledger.
        places: URLs of empty PostgreSQL databases by the name of the store; only for copies of PostgreSQL.
        ledgers: Ledgers of erasures, beside that of the folder and that of the home.
        on_progress: Called with numbers of bytes that are done.

    Raises:
        BackupError: The backup is damaged, of another version or key, or the home or a database does not fit.
        ServerError: A store cannot be used, the keys are not those of the backup, or a ledger cannot be read.
    """
    with explained(workspace.home):
        _check_empty(workspace.home)
        manifest = read_manifest(folder, backup, sealing)
        tree = read_tree(folder, manifest, sealing)
        _check_places(tree, places)
        blocks = Blocks(folder, sealing)
        with new_folder(workspace.home) as aside:
            made = Workspace(aside)
            for file in tree.files:
                _write(_target(aside, file.path), file, manifest, blocks)
                on_progress(file.bytes)
            for link in tree.links:
                os.symlink(link.target, aside / link.path)
            for beforehand in (made.pseudonym_key, made.erasures):
                if (workspace.home / beforehand.name).exists():
                    shutil.copy2(workspace.home / beforehand.name, beforehand)
            ledger = Ledger(made.erasures)
            for other in (folder / LEDGER, *ledgers):
                ledger.merge(Ledger(other).notes())
            stores = {name: _opened_place(aside, name, of, places) for name, of in tree.stores.items()}
            shutil.rmtree(aside / _DUMPS, ignore_errors=True)
            _check_catalogue(made, tree, stores)
            erased, traces, ring = _erase_again(made, manifest, tree, stores, ledger.notes())
            (aside / f".{made.erasures.name}.lock").unlink(missing_ok=True)
    return Restored(manifest, tree, erased, traces, ring)


def _check_empty(home: Path) -> None:
    own = Workspace(home)
    allowed = (own.pseudonym_key.name, own.erasures.name)
    entries = sorted(home.iterdir()) if home.is_dir() else ()
    others = [path.name for path in entries if path.name not in allowed and not path.name.startswith(".")]
    if others:
        raise BackupError(f"{home} is not empty: it holds {others[0]}; name a folder that does not exist with --home")


def _check_places(tree: Tree, places: Mapping[str, str]) -> None:
    """Check that each copy of PostgreSQL has a database to go to, and nothing else has one."""
    for name, store in tree.stores.items():
        if store.kind == "postgresql" and not places.get(name):
            raise BackupError(f"the {name} store of this backup was in PostgreSQL: name an empty database for it")
        if store.kind == "sqlite" and places.get(name):
            raise BackupError(f"the {name} store of this backup was in SQLite, and goes to the home: name no database")


def _target(home: Path, path: str) -> Path:
    """Where a file of the tree goes."""
    folder, _, inside = path.partition("/")
    if folder == "home":
        return home / inside
    if folder == "stores":
        return home / (_DUMPS if inside.endswith(".dump") else "") / inside
    return home / path


def _write(target: Path, file: File, manifest: BackupManifest, blocks: Blocks) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, file.mode), "wb") as out:
        for name in file.blocks:
            out.write(blocks.get(name, manifest.blocks.get(name)))
        if out.tell() != file.bytes:
            raise BackupError(f"{file.path} has {out.tell():,} bytes, the tree says {file.bytes:,}")


def _opened_place(home: Path, name: str, store: StoreState, places: Mapping[str, str]) -> Path | str:
    """The restored store; a dump is loaded."""
    if store.kind == "sqlite":
        return _target(home, store.path)
    load_dump(_target(home, store.path), places[name], _SCHEMAS[name])
    return places[name]


def _check_catalogue(made: Workspace, tree: Tree, stores: Mapping[str, Path | str]) -> None:
    """Check that the catalogue opens with this version, and knows the revision of the snapshot."""
    if "catalogue" in stores:
        with CatalogueStore(stores["catalogue"]) as catalogue:
            if tree.snapshot:
                catalogue.check_known(read_snapshot(made.snapshots / tree.snapshot).revision)


def _erase_again(
    made: Workspace, manifest: BackupManifest, tree: Tree, stores: Mapping[str, Path | str], notes: Sequence[Note]
) -> tuple[int, list[ModelTrace], str]:
    """Erase who was erased since the backup; how many users went, models that saw them, and which keys are missing."""
    if "interactions" not in stores:
        return 0, [], ""
    of = tree.stores["interactions"]
    since = [note for note in notes if note.store == of.identity and _is_since(note, of, manifest)]
    has_keys = given_keys() is not None or made.pseudonym_key.exists()
    keys = UserKeys(lambda: read_pseudonyms(made.pseudonym_key, make=False)) if has_keys else None
    with InteractionStore(stores["interactions"], keys=keys) as store:
        if keys is not None:
            keys.settle(store.database)
        whole = read_pseudonyms(made.pseudonym_key, make=False) if has_keys else None
        count = erase_again(store, since, whole)
        return count, model_traces(made.spaces, store, 0.0), "" if has_keys else of.ring


def _is_since(note: Note, store: StoreState, manifest: BackupManifest) -> bool:
    """Whether an erasure is not in the backup: by the revision, or by the clock where the store was restored since."""
    return note.revision > store.revision or note.at_us >= manifest.created_us
