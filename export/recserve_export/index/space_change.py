"""Which versions of trained spaces are served: activate, roll back, by a new snapshot that shares all other files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from recserve_export.index.engine_choice import EngineName, Settings
from recserve_export.index.own_vectors import own_vectors_at
from recserve_export.index.spaces import Index, TakenOver, taken_over
from recserve_export.stages import Stage, silent
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest
from recserve_server_ext.index.pointers import current, published
from recserve_server_ext.index.snapshot import write_over
from recserve_server_ext.index.trained import read_trained
from recserve_server_ext.index.trained_versions import find_version, make_current, version_before


def activate_space(workspace: Workspace, name: str, version: str, *, store: str = "", stage: Stage = silent) -> str:
    """Serve a version of a trained space; running servers change to it at once. Returns the snapshot's name.

    Args:
        workspace: The home.
        name: Name of the space.
        version: Name of the version.
        store: URL of the catalogue store, for vectors that came with items; empty takes the file in the workspace.
        stage: Shows progress.

    Raises:
        SpaceError: There is no such version, it is damaged, or it does not fit the index.
        SnapshotError: The published snapshot is damaged, or another was published meanwhile.
        CatalogueError: The catalogue store cannot be read.
    """
    return serve_versions(workspace, {name: find_version(workspace.spaces, name, version)}, store=store, stage=stage)


def roll_back_space(workspace: Workspace, name: str, *, store: str = "", stage: Stage = silent) -> str:
    """Serve the version of a space that was current before; see `activate_space`."""
    return serve_versions(workspace, {name: version_before(workspace.spaces, name)}, store=store, stage=stage)


def serve_versions(
    workspace: Workspace,
    folders: Mapping[str, Path],
    settings: Settings | None = None,
    *,
    store: str = "",
    stage: Stage = silent,
) -> str:
    """Serve versions of some spaces, all at once or none; for the rest see `activate_space`.

    Without a snapshot they only become current: the first index build takes them over. The name is empty then.

    Args:
        workspace: The home.
        folders: Folder of each version, by the name of its space.
        settings: How to choose the engines.
        store: See `activate_space`.
        stage: Shows progress.
    """
    if not published(workspace.snapshots):
        for folder in folders.values():
            read_trained(folder)
        snapshot = ""
    else:
        base = current(workspace.snapshots)
        manifest = read_manifest(base, verify=False)
        new = {name: folder for name, folder in folders.items() if manifest.trained.get(name) != folder.name}
        snapshot = base.name
        if new:
            own = own_vectors_at(workspace.store_at(store), manifest.source, list(new))
            index = Index.of_snapshot(base, manifest, own)
            snapshot = _published_over(workspace, base.name, manifest, index, new, settings or Settings(), stage)
    for folder in folders.values():
        make_current(folder)
    return snapshot


def _published_over(
    workspace: Workspace,
    base: str,
    manifest: SnapshotManifest,
    index: Index,
    folders: Mapping[str, Path],
    settings: Settings,
    stage: Stage,
) -> str:
    taken = TakenOver({}, {}, {}, {})
    for name, folder in folders.items():
        of = taken_over({name: folder}, index, _as_before(manifest, name, settings), stage=stage)
        taken = TakenOver(
            taken.spaces | of.spaces, taken.matrices | of.matrices, taken.models | of.models, taken.refused | of.refused
        )
    if taken.refused:
        raise SpaceError("; ".join(map(str, taken.refused.values())))
    return write_over(workspace.snapshots, base, taken.spaces, taken.matrices, taken.models).name


def _as_before(manifest: SnapshotManifest, name: str, settings: Settings) -> Settings:
    """The engine that the space has in the snapshot, so that others are not measured again."""
    if settings.engine != "auto" or name not in manifest.spaces:
        return settings
    return replace(settings, engine=cast("EngineName", manifest.spaces[name].engine.name))
