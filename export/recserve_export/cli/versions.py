"""`recserve encoder`: the exported encoders side by side, and which of them is served."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from recserve_client.cli.console import fail, note, out
from recserve_export.cli.common import MILVUS_TOKEN, MILVUS_URI, check_recall, explained, stage_bar
from recserve_export.cli.index import Engine
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_export.index.activate import Activated
    from recserve_server_ext.encoder.versions import Version

app = typer.Typer(
    help="List the exported encoders, and change, together with the index, which of them is served.",
    no_args_is_help=True,
)
_HOME = typer.Option(DEFAULT_HOME, "--home", help="Folder of the encoders, the catalogue and the snapshots.")
_STORE = typer.Option("", help="URL of the catalogue store [default: the file in the home].")
_VERSION = typer.Argument(help="Number, name or fingerprint of a version, see `recserve encoder list`.")


@app.command("list")
def list_versions(home: Path = _HOME) -> None:
    """List the versions, the newest first; `*` marks the one that is served."""
    with explained(OSError):
        from recserve_server_ext.encoder.versions import active, versions

        workspace = Workspace(home)
        found = versions(workspace.encoder)
        if not found:
            fail(f"no encoder in {workspace.encoder}; make one with: recserve export encoder")
        served = active(workspace)
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in ("", "no.", "model", "precision", "dim", "fingerprint", "exported", "newest index"):
            table.add_column(column, justify="right" if column in ("no.", "dim") else "left", overflow="fold")
        for one in reversed(found):
            is_served = served is not None and one.folder == served.folder
            table.add_row("*" if is_served else "", str(one.number), *_cells(workspace, one))
        out.print(table)
        for one in found:
            if one.fault:
                note(one.fault)


@app.command()
def activate(
    version: str = _VERSION,
    home: Path = _HOME,
    reindex: bool = typer.Option(False, "--reindex", help="First encode the catalogue with it and build its index."),
    engine: Engine = typer.Option(Engine.AUTO, help="With --reindex: what searches, as of `recserve index build`."),
    recall: float = typer.Option(0.98, help="With --reindex: recall@10 to reach for user vectors."),
    threads: int = typer.Option(0, help="With --reindex: threads; 0: the usable cores.", min=0),
    store: str = _STORE,
    milvus_uri: str = MILVUS_URI,
    milvus_token_file: str = MILVUS_TOKEN,
) -> None:
    """Serve another encoder together with its index; running servers change to both at once, without a pause."""
    check_recall(recall)
    with explained(OSError):
        from recserve_export.index import activate as encoder_activate
        from recserve_export.index.engine_choice import Settings
        from recserve_server_ext.config.milvus import MilvusSettings

        workspace = Workspace(home)
        milvus = MilvusSettings(uri=milvus_uri, token_file=milvus_token_file)
        if reindex:
            settings = Settings(engine=engine.value, recall=recall, threads=threads or None)
            done = encoder_activate.activate_anew(
                workspace, version, settings, store=store, milvus=milvus, stage=stage_bar
            )
        else:
            done = encoder_activate.activate(workspace, version, store=store, milvus=milvus)
        _say(done)


@app.command()
def rollback(
    home: Path = _HOME, store: str = _STORE, milvus_uri: str = MILVUS_URI, milvus_token_file: str = MILVUS_TOKEN
) -> None:
    """Serve the encoder and the index that were served before the encoder changed last."""
    with explained(OSError):
        from recserve_export.index.activate import roll_back
        from recserve_server_ext.config.milvus import MilvusSettings

        milvus = MilvusSettings(uri=milvus_uri, token_file=milvus_token_file)
        _say(roll_back(Workspace(home), store=store, milvus=milvus))


@app.command()
def remove(version: str = _VERSION, home: Path = _HOME) -> None:
    """Remove a version that is not served."""
    with explained(OSError):
        from recserve_export.index.activate import remove as remove_version

        out.print(f"removed {remove_version(Workspace(home), version).name}", highlight=False)


def _cells(workspace: Workspace, version: Version) -> list[str]:
    from recserve_server_ext.encoder.manifest import MANIFEST
    from recserve_server_ext.index.snapshots import newest_of

    manifest = version.manifest
    if manifest is None:
        return ["", "", "", version.name, "", "damaged"]
    index = newest_of(workspace.snapshots, manifest.runtime_fingerprint)
    exported = datetime.fromtimestamp((version.folder / MANIFEST).stat().st_mtime, UTC)
    made = "none" if index is None else f"{index.items:,} items, revision {index.revision:,}"
    return [
        manifest.name,
        manifest.precision,
        str(manifest.dim),
        manifest.fingerprint,
        f"{exported:%Y-%m-%d %H:%M}",
        made,
    ]


def _say(done: Activated) -> None:
    if not done.is_new:
        note("nothing to do: it is served already")
    snapshot = done.snapshot
    out.print(
        f"encoder {done.version.name} with snapshot {snapshot.id}: {snapshot.items:,} items of revision "
        f"{snapshot.revision}",
        highlight=False,
        soft_wrap=True,
    )
