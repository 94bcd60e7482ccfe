"""The set that a backup takes: files of the home and both stores as of one moment, while they change."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from recserve_server_ext.backup.manifest import Link
from recserve_server_ext.catalogue.tables import SCHEMA as CATALOGUE
from recserve_server_ext.common.errors import BackupError
from recserve_server_ext.common.files import LOCK, exclusive
from recserve_server_ext.common.workspace import Workspace, store_place
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.interactions.tables import SCHEMA as INTERACTIONS
from recserve_server_ext.storage.database import Schema
from recserve_server_ext.storage.dumps import Frozen, frozen

STAGING: Final = ".backup"
_LOCK: Final = ".backup.lock"
#: Names of what a server, a build or a training leaves under way, in any folder.
_UNFINISHED: Final = ("TRAINING.json",)
_TRIES: Final = 3


class Staged(NamedTuple):
    """What a backup takes.

    Attributes:
        folder: Hard links to the files of the home, which hold what is in them now.
        files: Their paths.
        links: Symbolic links of the home.
        stores: The stores that are there, by name.
        aside: Folder for copies of the stores.
    """

    folder: Path
    files: list[Path]
    links: list[Link]
    stores: dict[str, Frozen]
    aside: Path


@contextmanager
def staged(workspace: Workspace, settings: ServeSettings) -> Iterator[Staged]:
    """Freeze the home and its stores; other backups of this home wait.

    While the files are linked, which takes milliseconds, no snapshot or trained space is published or removed. Both
    stores are frozen in that time, too, so they know the revision of the snapshot.

    Raises:
        BackupError: There is no home, or it changes too fast.
        StoreError: A store cannot be read.
        OSError: The home cannot be written.
    """
    if not workspace.home.is_dir():
        raise BackupError(f"there is no home at {workspace.home}; name one with --home")
    own = workspace.home / STAGING
    with exclusive(workspace.home / _LOCK), ExitStack() as stack:
        shutil.rmtree(own, ignore_errors=True)  # of a killed backup
        stack.callback(shutil.rmtree, own, ignore_errors=True)
        own.mkdir(mode=0o700)
        aside = own / "stores"
        aside.mkdir()
        with _unpublished(workspace):
            stores = {name: stack.enter_context(frozen(*of)) for name, of in _stores(workspace, settings).items()}
            files, links = _linked(workspace, own / "home")
        yield Staged(own / "home", files, links, stores, aside)


def _stores(workspace: Workspace, settings: ServeSettings) -> dict[str, tuple[Path | str, Schema]]:
    places: dict[str, tuple[Path | str, Schema]] = {
        "catalogue": (store_place(settings.store) if settings.store else workspace.store, CATALOGUE),
        "interactions": (
            store_place(settings.users.store) if settings.users.store else workspace.interactions,
            INTERACTIONS,
        ),
    }
    return {name: of for name, of in places.items() if isinstance(of[0], str) or of[0].is_file()}


@contextmanager
def _unpublished(workspace: Workspace) -> Iterator[None]:
    """Hold what publishes and removes snapshots and trained spaces."""
    folders = [workspace.snapshots]
    if workspace.spaces.is_dir():
        folders += [own for own in sorted(workspace.spaces.iterdir()) if own.is_dir() and own.name[0] != "."]
    with ExitStack() as stack:
        for folder in folders:
            if folder.is_dir():
                stack.enter_context(exclusive(folder / LOCK))
        yield


def _linked(workspace: Workspace, target: Path) -> tuple[list[Path], list[Link]]:
    """Link all files of the home into a new folder; tried again when one is removed meanwhile."""
    for _ in range(_TRIES):
        shutil.rmtree(target, ignore_errors=True)
        try:
            return _link_all(workspace, target)
        except FileNotFoundError as error:
            changed = error
    raise BackupError(f"files of {workspace.home} are removed meanwhile: {changed.filename}; try again") from changed


def _link_all(workspace: Workspace, target: Path) -> tuple[list[Path], list[Link]]:
    home, files, links = workspace.home, [], []
    for folder, names, found in os.walk(home):
        inside = Path(folder).relative_to(home)
        (target / inside).mkdir(parents=True, exist_ok=True)
        links += [_link_of(home, inside / name) for name in names if (home / inside / name).is_symlink()]
        names[:] = [name for name in sorted(names) if _is_kept(workspace, inside / name)]
        for name in filter(lambda name: _is_kept(workspace, inside / name), sorted(found)):
            if (home / inside / name).is_symlink():
                links.append(_link_of(home, inside / name))
            else:
                os.link(home / inside / name, target / inside / name)
                files.append(inside / name)
    return files, links


def _is_kept(workspace: Workspace, path: Path) -> bool:
    """Whether a backup takes a path of the home.

    Left out are the stores, which are copied; the keys of the pseudonyms, which belong elsewhere; the ledger, which
    outlives backups; what servers and builds have under way; and hidden files, which are locks and half-written.
    """
    alone = (workspace.pseudonym_key, workspace.erasures, workspace.run, workspace.encoding)
    stores = (workspace.store.name, workspace.interactions.name)
    if workspace.home / path in alone or (path.parent == Path() and path.name.startswith(stores)):
        return False
    return not path.name.startswith(".") and path.name not in _UNFINISHED


def _link_of(home: Path, path: Path) -> Link:
    return Link(path.as_posix(), os.readlink(home / path))
