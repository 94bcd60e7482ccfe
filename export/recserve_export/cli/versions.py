"""`recserve encoder`: the exported encoders side by side, and which of them is served."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from recserve_client.cli.console import fail, note, out
from recserve_client.cli.tables import table
from recserve_export.cli import options
from recserve_export.cli.common import explained, say, stage_bar
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.config.milvus import MilvusSettings

if TYPE_CHECKING:
    from recserve_export.index.activate import Activated
    from recserve_server_ext.encoder.versions import Version

app = typer.Typer(
    help="List the exported encoders, and change, together with the index, which of them is served.",
    no_args_is_help=True,
)
Name = Annotated[
    str, typer.Argument(metavar="VERSION", help="Number, name or fingerprint, see `recserve encoder list`.")
]


@app.command("list")
def list_versions(home: options.Home = DEFAULT_HOME) -> None:
    """List the versions, the newest first; `*` marks the one that is served."""
    with explained(OSError):
        from recserve_server_ext.encoder.versions import active, versions

        workspace = Workspace(home)
        found = versions(workspace.encoder)
        if not found:
            fail(f"no encoder in {workspace.encoder}; make one with: recserve export encoder")
        served = active(workspace)
        is_served = {one.folder: "*" for one in found if served is not None and one.folder == served.folder}
        rows = [[is_served.get(one.folder, ""), str(one.number), *_cells(workspace, one)] for one in reversed(found)]
        columns = ("", "no.", "model", "precision", "dim", "fingerprint", "exported", "newest index")
        out.print(table(columns, rows, right=("no.", "dim")))
        for one in found:
            if one.fault:
                note(one.fault)


@app.command()
def activate(
    version: Name,
    home: options.Home = DEFAULT_HOME,
    reindex: Annotated[
        bool, typer.Option("--reindex", help="First encode the catalogue with it and build its index.")
    ] = False,
    engine: options.Engine = "auto",
    recall: options.Recall = options.DEFAULT_RECALL,
    thorough: options.Thorough = False,
    threads: options.Threads = 0,
    store: options.CatalogueUrl = "",
    milvus_uri: options.MilvusUri = "",
    milvus_token_file: options.MilvusToken = "",
) -> None:
    """Serve another encoder together with its index; running servers change to both at once, without a pause.

    --engine, --recall, --thorough and --threads go with --reindex.
    """
    with explained(OSError):
        from recserve_export.index.activate import activate as activate_version
        from recserve_export.index.activate import activate_anew
        from recserve_export.index.engine_choice import Settings

        workspace, milvus = Workspace(home), MilvusSettings(milvus_uri, milvus_token_file)
        if reindex:
            settings = Settings(engine=engine, recall=recall, thorough=thorough, threads=threads or None)
            _say(activate_anew(workspace, version, settings, store=store, milvus=milvus, stage=stage_bar))
        else:
            _say(activate_version(workspace, version, store=store, milvus=milvus))


@app.command()
def rollback(
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
    milvus_uri: options.MilvusUri = "",
    milvus_token_file: options.MilvusToken = "",
) -> None:
    """Serve the encoder and the index that were served before the encoder changed last."""
    with explained(OSError):
        from recserve_export.index.activate import roll_back

        _say(roll_back(Workspace(home), store=store, milvus=MilvusSettings(milvus_uri, milvus_token_file)))


@app.command()
def remove(version: Name, home: options.Home = DEFAULT_HOME) -> None:
    """Remove a version that is not served."""
    with explained(OSError):
        from recserve_export.index.activate import remove as remove_version

        say(f"removed {remove_version(Workspace(home), version).name}")


def _cells(workspace: Workspace, version: Version) -> list[str]:
    from recserve_server_ext.encoder.manifest import MANIFEST
    from recserve_server_ext.index.snapshot_versions import newest_of

    manifest = version.manifest
    if manifest is None:
        return ["", "", "", version.name, "", "damaged"]
    index = newest_of(workspace.snapshots, manifest.runtime_fingerprint)
    exported = datetime.fromtimestamp((version.folder / MANIFEST).stat().st_mtime, UTC)
    made = "none" if index is None else f"{index.items:,} items, revision {index.revision:,}"
    model = [manifest.name, manifest.precision, str(manifest.dim), manifest.fingerprint]
    return [*model, f"{exported:%Y-%m-%d %H:%M}", made]


def _say(done: Activated) -> None:
    if not done.is_new:
        note("nothing to do: it is served already")
    snapshot = done.snapshot
    say(
        f"encoder {done.version.name} with snapshot {snapshot.id}: {snapshot.items:,} items of revision "
        f"{snapshot.revision}"
    )
