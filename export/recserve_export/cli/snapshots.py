"""`recserve index list|verify|activate|rollback|gc`: the snapshots on disk, and which of them is served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from recserve_client.cli.console import fail, note, out
from recserve_client.cli.tables import table
from recserve_export.cli import options
from recserve_export.cli.common import explained, say
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.config.milvus import MilvusSettings

if TYPE_CHECKING:
    from recserve_server_ext.index.manifest import SnapshotManifest


def list_snapshots(home: options.Home = DEFAULT_HOME) -> None:
    """List the snapshots, the newest first; `*` marks the one that is served."""
    _print(home, verify=False)


def verify(home: options.Home = DEFAULT_HOME) -> None:
    """Check every file of every snapshot against its checksum; exit code 1 when one is damaged."""
    if _print(home, verify=True):
        raise typer.Exit(1)


def activate(
    name: str = typer.Argument(help="Name of the snapshot, see `recserve index list`."),
    home: options.Home = DEFAULT_HOME,
    precision: options.Precision = "auto",
    milvus_uri: options.MilvusUri = "",
    milvus_token_file: options.MilvusToken = "",
) -> None:
    """Serve another snapshot; running servers change to it at once, and add what changed since it was made."""
    _publish(home, precision, MilvusSettings(milvus_uri, milvus_token_file), name)


def rollback(
    home: options.Home = DEFAULT_HOME,
    precision: options.Precision = "auto",
    milvus_uri: options.MilvusUri = "",
    milvus_token_file: options.MilvusToken = "",
) -> None:
    """Serve the snapshot before the one that is served now."""
    _publish(home, precision, MilvusSettings(milvus_uri, milvus_token_file))


def gc(home: options.Home = DEFAULT_HOME) -> None:
    """Remove all snapshots but the one that is served."""
    with explained(OSError):
        from recserve_server_ext.index.snapshot_versions import collect

        for name in collect(Workspace(home).snapshots):
            note(f"removed {name}")


def _publish(home: Path, precision: options.Precision, milvus: MilvusSettings, name: str | None = None) -> None:
    """Publish a snapshot; without a name the one before the published one."""
    with explained(OSError):
        from recserve_export.index.milvus import ready_in_milvus
        from recserve_server_ext.encoder.manifest import read_manifest
        from recserve_server_ext.encoder.selection import choose_encoder
        from recserve_server_ext.index import snapshot_versions

        workspace, ready = Workspace(home), ready_in_milvus(milvus)
        encoder = read_manifest(choose_encoder(workspace, precision), verify=False).runtime_fingerprint
        if name is None:
            found = snapshot_versions.rollback(workspace.snapshots, encoder, ready)
        else:
            found = snapshot_versions.activate(workspace.snapshots, name, encoder, ready)
        say(f"snapshot {found.id} is published")


def _engines(manifest: SnapshotManifest) -> str:
    """The engine of each space; that of `text` alone without its name."""
    if len(manifest.spaces) == 1:
        return manifest.text.engine.name
    return ", ".join(f"{name} {of.engine.name}" for name, of in manifest.spaces.items())


def _print(home: Path, *, verify: bool) -> bool:
    """Print the snapshots; whether one of them is damaged."""
    from recserve_server_ext.index.snapshot_versions import kept

    found = kept(Workspace(home).snapshots, verify=verify)
    if not found:
        fail(f"no snapshot in {Workspace(home).snapshots}; build one with: recserve index build")
    rows = []
    for one in found:
        manifest, cells = one.manifest, ["", "", "", ""]
        if manifest is not None:
            cells = [f"{manifest.items:,}", f"{manifest.revision:,}", _engines(manifest), manifest.encoder]
        state = "damaged" if one.fault else "whole" if verify else ""
        rows.append(["*" if one.is_current else "", one.name, *cells, state])
    columns = ("", "snapshot", "items", "revision", "engine", "encoder", "state")
    out.print(table(columns, rows, right=("items", "revision")))
    faults = [one.fault for one in found if one.fault]
    for fault in faults:
        note(fault)
    return bool(faults)
