"""Makes a backup of a home and its stores, while they are served."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec

from recserve_server_ext.backup.blocks import BLOCK_BYTES, Blocks
from recserve_server_ext.backup.manifest import (
    BackupManifest,
    File,
    StoreState,
    Tree,
    is_whole,
    kept_backups,
    write_manifest,
)
from recserve_server_ext.backup.sealing import Plain
from recserve_server_ext.backup.staging import Staged, staged
from recserve_server_ext.common.errors import BackupError, SnapshotError
from recserve_server_ext.common.files import LOCK, exclusive
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.manifest import read_manifest as read_snapshot
from recserve_server_ext.index.pointers import current
from recserve_server_ext.interactions.ledger import Ledger
from recserve_server_ext.storage.dumps import Frozen

#: Copy of the ledger of erasures, which all backups of a folder share and no backup contains.
LEDGER: Final = "erasures.jsonl"
Progress = Callable[[int], None]


def create(
    workspace: Workspace,
    settings: ServeSettings,
    folder: Path,
    sealing: Plain,
    settings_files: dict[str, Path],
    on_progress: Progress = lambda size: None,
) -> BackupManifest:
    """Make a backup: blocks first, then its manifest, which is written in one step.

    Whatever is killed before that leaves no backup. Blocks that an earlier backup of the folder holds are not written
    again. Erasures are copied to the folder's own ledger.

    Args:
        workspace: The home.
        settings: Where the stores are.
        folder: Folder of backups, made where it is missing.
        sealing: The key, or none.
        settings_files: Files of the settings, by their name in the backup.
        on_progress: Called with numbers of bytes that are done.

    Raises:
        BackupError: There is nothing to back up, or the folder or the home cannot be written.
        ServerError: A store cannot be read, or the published snapshot is damaged.
    """
    if folder.resolve().is_relative_to(workspace.home.resolve()):
        raise BackupError(f"{folder} is in the home that is to be backed up; name a folder elsewhere")
    with explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(folder / LOCK), staged(workspace, settings) as found:
            now = datetime.now(UTC)
            blocks = Blocks(folder, sealing, _known(folder, sealing))
            files = _stored(found, settings_files, blocks, on_progress)
            tree = _tree(found, files, blocks)
            encoded = msgspec.json.encode(tree)
            parts = [encoded[at : at + BLOCK_BYTES] for at in range(0, len(encoded), BLOCK_BYTES)]
            names = [blocks.put(part) for part in parts]
            Ledger(folder / LEDGER).merge(Ledger(ledger_of(workspace, settings)).notes())
            manifest = BackupManifest(
                id=_new_id(folder, now),
                created_us=round(now.timestamp() * MICROSECONDS),
                recserve=version("recserve"),
                key=sealing.fingerprint,
                tree=names,
                blocks=blocks.used,
                bytes=sum(file.bytes for file in tree.files),
                written=blocks.written,
            )
            return write_manifest(folder, manifest, sealing)


def ledger_of(workspace: Workspace, settings: ServeSettings) -> Path:
    """The ledger of erasures of a home."""
    return Path(settings.users.erasures) if settings.users.erasures else workspace.erasures


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Raise BackupError for an error of the file system, with the file where it has one."""
    try:
        yield
    except OSError as error:
        raise BackupError(f"{error.filename or folder} cannot be used: {error.strerror or error}") from error


def _known(folder: Path, sealing: Plain) -> dict[str, str]:
    """SHA-256 of all blocks of the whole backups that were made with the same key, by name."""
    known: dict[str, str] = {}
    for one in kept_backups(folder):
        if one.manifest is not None and one.manifest.key == sealing.fingerprint and is_whole(one.manifest, sealing):
            known |= one.manifest.blocks
    return known


def _stored(found: Staged, settings_files: dict[str, Path], blocks: Blocks, on_progress: Progress) -> list[File]:
    """Put all files into blocks; copies of the stores come last, since they are made here."""
    files = [_file(f"home/{path.as_posix()}", found.folder / path, blocks, on_progress) for path in found.files]
    files += [_file(f"settings/{name}", path, blocks, on_progress) for name, path in settings_files.items()]
    for name, store in found.stores.items():
        copy = found.aside / _copy_name(name, store)
        store.write(copy)
        files.append(_file(f"stores/{copy.name}", copy, blocks, on_progress))
        copy.unlink()
    return files


def _copy_name(name: str, store: Frozen) -> str:
    return f"{name}.{'db' if store.kind == 'sqlite' else 'dump'}"


def _file(path: str, source: Path, blocks: Blocks, on_progress: Progress) -> File:
    names, size = blocks.put_file(source)
    on_progress(size)
    return File(path, names, size, stat.S_IMODE(source.stat().st_mode))


def _tree(found: Staged, files: list[File], blocks: Blocks) -> Tree:
    snapshot = _snapshot(found.folder)
    stores = {
        name: StoreState(
            kind=store.kind,
            path=f"stores/{_copy_name(name, store)}",
            identity=str(store.state.identity),
            revision=int(store.state.revision),
            ring=getattr(store.state, "ring", None) or "",
        )
        for name, store in found.stores.items()
    }
    if not files:
        raise BackupError("there is nothing to back up in this home")
    return Tree(
        files=files,
        links=found.links,
        stores=stores,
        snapshot="" if snapshot is None else snapshot.id,
        encoder="" if snapshot is None else snapshot.encoder,
    )


def _snapshot(home: Path) -> SnapshotManifest | None:
    """The manifest of the published snapshot, whose files are as it says; `None` without one."""
    snapshots = Workspace(home).snapshots
    if not (snapshots / "CURRENT").exists():
        return None
    try:
        return read_snapshot(current(snapshots))
    except SnapshotError as error:
        raise BackupError(f"the published snapshot would be of no use: {error}") from error


def _new_id(folder: Path, now: datetime) -> str:
    """The moment, or the next one behind all backups that are there: so the last is the newest."""
    stamp = f"{now:%Y%m%dT%H%M%S%f}"
    last = max((one.id for one in kept_backups(folder)), default="")
    return stamp if stamp > last else f"{last[:9]}{int(last[9:]) + 1:012d}"
