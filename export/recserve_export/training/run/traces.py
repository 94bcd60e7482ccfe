"""Removes what holds a trace of erased users once a training without them serves."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import published
from recserve_server_ext.index.snapshot_versions import kept
from recserve_server_ext.index.trained_versions import current_spaces
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.services.model_traces import traced_versions


def remove_traces(workspace: Workspace, store: InteractionStore, served: Mapping[str, Path]) -> list[str]:
    """Remove the versions of the served spaces that saw erased users, and older snapshots that hold them.

    Args:
        workspace: The home.
        store: Its interaction store.
        served: Folder of the version that serves now, by the name of its space.

    Returns:
        Space and version of each that is gone.
    """
    removed: dict[str, set[str]] = {}
    for one in traced_versions(workspace.spaces, store):
        if one.space in served and not one.is_current:
            shutil.rmtree(one.folder, ignore_errors=True)
            removed.setdefault(one.space, set()).add(one.folder.name)
    if removed:
        clean = {name: folder.name for name, folder in current_spaces(workspace.spaces).items()}
        for snapshot in kept(workspace.snapshots):
            trained = {} if snapshot.manifest is None else snapshot.manifest.trained
            holds = any(trained.get(name) not in (None, clean[name]) for name in removed)
            if holds and snapshot.name != published(workspace.snapshots):
                shutil.rmtree(workspace.snapshots / snapshot.name, ignore_errors=True)
    return [f"{name}/{version}" for name, versions in removed.items() for version in sorted(versions)]
