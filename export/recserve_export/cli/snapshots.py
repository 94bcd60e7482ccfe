"""`recserve index list|verify|activate|rollback|gc`: the snapshots on disk, and which of them is served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from recserve_client.cli.console import fail, note, out
from recserve_export.cli.common import MILVUS_TOKEN, MILVUS_URI, Precision, explained
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_server_ext.index.manifest import SnapshotManifest

_HOME = typer.Option(DEFAULT_HOME, "--home", help="Folder of the encoder, the catalogue and the snapshots.")
_PRECISION = typer.Option(Precision.AUTO, help="Encoder that is served; auto: as `recserve serve` chooses.")


def list_snapshots(home: Path = _HOME) -> None:
    """List the snapshots, the newest first; `*` marks the one that is served."""
    _print(home, verify=False)


def verify(home: Path = _HOME) -> None:
    """Check every file of every snapshot against its checksum; exit code 1 when one is damaged."""
    if _print(home, verify=True):
        raise typer.Exit(1)


def activate(
    name: str = typer.Argument(help="Name of the snapshot, see `recserve index list`."),
    home: Path = _HOME,
    precision: Precision = _PRECISION,
    milvus_uri: str = MILVUS_URI,
    milvus_token_file: str = MILVUS_TOKEN,
) -> None:
    """Serve another snapshot; running servers change to it at once, and add what changed since it was made."""
    with explained(OSError):
        from recserve_export.index.milvus import ready_in_milvus
        from recserve_server_ext.config.milvus import MilvusSettings
        from recserve_server_ext.index.snapshots import activate

        ready = ready_in_milvus(MilvusSettings(uri=milvus_uri, token_file=milvus_token_file))
        _say(activate(Workspace(home).snapshots, name, _fingerprint(home, precision), ready).id)


def rollback(
    home: Path = _HOME,
    precision: Precision = _PRECISION,
    milvus_uri: str = MILVUS_URI,
    milvus_token_file: str = MILVUS_TOKEN,
) -> None:
    """Serve the snapshot before the one that is served now."""
    with explained(OSError):
        from recserve_export.index.milvus import ready_in_milvus
        from recserve_server_ext.config.milvus import MilvusSettings
        from recserve_server_ext.index.snapshots import rollback

        ready = ready_in_milvus(MilvusSettings(uri=milvus_uri, token_file=milvus_token_file))
        _say(rollback(Workspace(home).snapshots, _fingerprint(home, precision), ready).id)


def gc(home: Path = _HOME) -> None:
    """Remove all snapshots but the one that is served."""
    with explained(OSError):
        from recserve_server_ext.index.snapshots import collect

        for name in collect(Workspace(home).snapshots):
            note(f"removed {name}")


def _engines(manifest: SnapshotManifest) -> str:
    """The engine of each space; that of `text` alone without its name."""
    if len(manifest.spaces) == 1:
        return manifest.text.engine.name
    return ", ".join(f"{name} {of.engine.name}" for name, of in manifest.spaces.items())


def _fingerprint(home: Path, precision: Precision) -> str:
    from recserve_server_ext.encoder.manifest import read_manifest
    from recserve_server_ext.encoder.selection import choose_encoder

    return read_manifest(choose_encoder(Workspace(home), precision.value), verify=False).runtime_fingerprint


def _say(name: str) -> None:
    out.print(f"snapshot {name} is published", highlight=False)


def _print(home: Path, *, verify: bool) -> bool:
    """Print the snapshots; whether one of them is damaged."""
    from recserve_server_ext.index.snapshots import kept

    found = kept(Workspace(home).snapshots, verify=verify)
    if not found:
        fail(f"no snapshot in {Workspace(home).snapshots}; build one with: recserve index build")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("", "snapshot", "items", "revision", "engine", "encoder", "state"):
        table.add_column(column, justify="right" if column in ("items", "revision") else "left")
    for one in found:
        state = "damaged" if one.fault else "whole" if verify else ""
        manifest = one.manifest
        cells = ["", "", "", ""]
        if manifest is not None:
            cells = [f"{manifest.items:,}", f"{manifest.revision:,}", _engines(manifest), manifest.encoder]
        table.add_row("*" if one.is_current else "", one.name, *cells, state)
    out.print(table)
    for one in found:
        if one.fault:
            note(one.fault)
    return any(one.fault for one in found)
