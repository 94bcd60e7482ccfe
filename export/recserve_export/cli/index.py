"""`recserve index build|report|compact`, and the app of all `recserve index` commands."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recserve_client.cli.console import note
from recserve_client.cli.tables import plain
from recserve_export.cli import options, snapshots
from recserve_export.cli.common import (
    check_folder,
    explained,
    history_rules,
    interactions_at,
    say,
    say_json,
    say_what_fits,
    show_report,
    stage_bar,
)
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace
from recserve_server_ext.config.milvus import MilvusSettings

if TYPE_CHECKING:
    from recserve_export.index.build import Built

app = typer.Typer(
    help="Build the index of the catalogue, show how its engine was chosen, and manage the snapshots of it.",
    no_args_is_help=True,
)
app.command("list")(snapshots.list_snapshots)
for command in (snapshots.verify, snapshots.activate, snapshots.rollback, snapshots.gc):
    app.command()(command)


@app.command()
def build(
    home: options.Home = DEFAULT_HOME,
    precision: options.Precision = "auto",
    engine: options.Engine = "auto",
    recall: options.Recall = options.DEFAULT_RECALL,
    thorough: options.Thorough = False,
    force: options.Force = False,
    vectors: Annotated[
        Path | None, typer.Option(help="Output of `recserve catalogue encode`, whose vectors are taken.")
    ] = None,
    store: options.CatalogueUrl = "",
    interactions: Annotated[
        str, typer.Option(help="URL of the interaction store.", show_default="the file in the home")
    ] = "",
    rules: options.Rules = None,
    milvus_uri: options.MilvusUri = "",
    milvus_token_file: options.MilvusToken = "",
) -> None:
    """Encode the catalogue, choose and build the engine that serves it at least cost, publish a snapshot."""
    with explained(OSError):
        from recserve_export.encoder.checks.canonical import verify_stored
        from recserve_export.index.build import build as build_snapshot
        from recserve_export.index.engine_choice import Settings
        from recserve_export.index.logged_users import LoggedUsers
        from recserve_server_ext.encoder.selection import choose_encoder
        from recserve_server_ext.encoder.versions import active

        workspace = Workspace(home)
        encoder = choose_encoder(workspace, precision)
        served = active(workspace)
        if served is not None and served.folder != encoder:
            verify_stored(encoder)  # as for `recserve encoder activate`: it will be served
        built = build_snapshot(
            workspace,
            encoder,
            Settings(engine=engine, recall=recall, thorough=thorough),
            store=store,
            force=force,
            encoded=vectors,
            milvus=MilvusSettings(milvus_uri, milvus_token_file),
            log=LoggedUsers(interactions_at(home, interactions), history_rules(rules)),
            stage=stage_bar,
        )
        _print_built(built, vectors)
        say_what_fits(interactions_at(home, interactions), workspace.store_at(store), is_error=False)


@app.command()
def report(
    home: options.Home = DEFAULT_HOME,
    as_json: options.Json = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the curve into this PNG.")] = None,
    space: Annotated[str, typer.Option(help="Space of the index.")] = "text",
    html: options.Html = None,
) -> None:
    """Print the recall curve of the published index, with the chosen parameters marked."""
    check_folder(html)
    with explained(OSError):
        from recserve_export.index.report import draw, read_report, shown
        from recserve_server_ext.index.pointers import current

        folder = current(Workspace(home).snapshots)
        found = read_report(folder, space)
        if plot is not None:
            draw(found, plot)
        if as_json:
            say_json(found)
        # As texts, so that long lines are broken.
        lines = (plain(part) if isinstance(part, str) else part for part in shown(found))
        parts = [f"snapshot {folder.name}", *lines]
        show_report("How well the index finds neighbours", parts, html, quiet=as_json, draw=partial(draw, found))


@app.command()
def compact(
    home: options.Home = DEFAULT_HOME,
    precision: options.Precision = "auto",
    store: options.CatalogueUrl = "",
    threads: options.Threads = 0,
    milvus_uri: options.MilvusUri = "",
    milvus_token_file: options.MilvusToken = "",
) -> None:
    """Publish a snapshot with all changes so far, by the engine that was chosen; serving goes on."""
    with explained(OSError):
        from recserve_export.index.compact import compact as make
        from recserve_server_ext.catalogue.store import CatalogueStore
        from recserve_server_ext.encoder.selection import choose_encoder

        workspace = Workspace(home)
        encoder = choose_encoder(workspace, precision)
        with CatalogueStore(workspace.store_at(store)) as opened:
            milvus = MilvusSettings(milvus_uri, milvus_token_file)
            done = make(opened, workspace.snapshots, encoder, threads or None, milvus)
        if done is None:
            note("nothing has changed since the published snapshot")
        else:
            say(f"snapshot {done.id}: {done.items:,} items of revision {done.revision}")


def _print_built(built: Built, vectors: Path | None) -> None:
    manifest, report = built.manifest, built.report
    if not built.is_new:
        unused = "" if vectors is None else f"; no vector of {vectors} was needed"
        note(f"the index is up to date: snapshot {manifest.id}{unused}")
    if not report.choice.reached:
        note(f"warning: no measured parameters reach recall@10 {report.target:g}; the nearest were chosen")
    for error in built.refused.values():
        note(f"warning: left out: {error}")
    if report.truncated_texts:
        note(report.cut)
    recalls = ", ".join(f"{kind} {value:.3f}" for kind, value in report.chosen.recall.items())
    say(f"snapshot {manifest.id}: {manifest.items:,} items of revision {manifest.revision}")
    say(f"encoder {manifest.encoder}, {report.chosen.name}")
    say(f"recall@10 for user vectors: {recalls} (measured with {report.users_from})")
    if built.is_new:
        say(f"engine: {report.how}")
    if vectors is not None and built.origins is not None:
        known, taken, encoded = built.origins
        say(f"item vectors: {taken:,} from {vectors}, {encoded:,} encoded, {known:,} there already")
