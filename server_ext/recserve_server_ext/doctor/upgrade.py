"""What this version of recserve would do to a home: which parts it reads, migrates or refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from recserve_server_ext.catalogue.tables import SCHEMA as CATALOGUE
from recserve_server_ext.common.errors import ConfigError, ServerError
from recserve_server_ext.common.workspace import Workspace, store_place
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.encoder.versions import versions
from recserve_server_ext.index.snapshot_versions import kept
from recserve_server_ext.index.trained_versions import kept_versions
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.ledger import Ledger
from recserve_server_ext.interactions.tables import SCHEMA as INTERACTIONS
from recserve_server_ext.storage.database import Database, Schema
from recserve_server_ext.storage.versions import lacking
from recserve_server_ext.strategies.parts.chosen import chosen_options

_READ = "is read as it is"


class Part(NamedTuple):
    """One part of a home.

    Attributes:
        outcome: What this version does with it.
        is_refused: Whether it cannot be used.
    """

    name: str
    outcome: str
    is_refused: bool = False


def plan(workspace: Workspace, settings: ServeSettings) -> list[Part]:
    """Every part of a home with what this version does to it; nothing is changed.

    Raises:
        ConfigError: There is no home.
    """
    if not workspace.home.is_dir():
        raise ConfigError(f"there is no home at {workspace.home}; name one with --home")
    return [*_stores(workspace, settings), *_folders(workspace), *_files(workspace, settings)]


def upgrade(workspace: Workspace, settings: ServeSettings) -> None:
    """Run the migrations that the stores lack; raises StoreError where one is refused."""
    for where, schema in _places(workspace, settings):
        Database(where, schema).close()


def _places(workspace: Workspace, settings: ServeSettings) -> list[tuple[Path | str, Schema]]:
    places = [
        (store_place(settings.store) if settings.store else workspace.store, CATALOGUE),
        (store_place(settings.users.store) if settings.users.store else workspace.interactions, INTERACTIONS),
    ]
    return [(where, schema) for where, schema in places if isinstance(where, str) or where.is_file()]


def _stores(workspace: Workspace, settings: ServeSettings) -> Iterator[Part]:
    for where, schema in _places(workspace, settings):
        name = f"{schema.name} store"
        try:
            missing = lacking(where, schema)
        except ServerError as error:
            yield Part(name, str(error), True)
        else:
            yield Part(name, f"is migrated when it is opened: {', '.join(missing)}" if missing else _READ)


def _folders(workspace: Workspace) -> Iterator[Part]:
    for version in versions(workspace.encoder):
        yield _part(f"encoder {version.name}", version.fault)
    for snapshot in kept(workspace.snapshots):
        yield _part(f"snapshot {snapshot.name}", snapshot.fault)
    for space in kept_versions(workspace.spaces):
        yield _part(f"space {space.space} {space.folder.name}", space.fault)


def _files(workspace: Workspace, settings: ServeSettings) -> Iterator[Part]:
    ledger = Path(settings.users.erasures) if settings.users.erasures else workspace.erasures
    readers: dict[Path, Callable[[], object]] = {
        workspace.pseudonym_key: lambda: read_pseudonyms(workspace.pseudonym_key, {}, make=False),
        workspace.evaluation: lambda: chosen_options(workspace.evaluation),
        ledger: lambda: Ledger(ledger).notes(),
    }
    for path, read in readers.items():
        if path.exists():
            try:
                read()
            except ServerError as error:
                yield Part(path.name, str(error), True)
            else:
                yield Part(path.name, _READ)


def _part(name: str, fault: str) -> Part:
    return Part(name, fault or _READ, bool(fault))
