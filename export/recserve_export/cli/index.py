"""`recserve index`: build the index of the catalogue, and show how its parameters were chosen."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from recserve_client.cli.console import fail, note, out
from recserve_export.cli import snapshots as cli_snapshots
from recserve_export.cli.common import MILVUS_TOKEN, MILVUS_URI, Precision, check_recall, explained, stage_bar
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace, store_place

if TYPE_CHECKING:
    from recserve_export.index.build import Built, LoggedUsers
    from recserve_export.index.engine_choice import RecallReport
    from recserve_export.index.recall import CurvePoint

app = typer.Typer(
    help="Build the index of the catalogue, show how its engine was chosen, and manage the snapshots of it.",
    no_args_is_help=True,
)
for name, command in (
    ("list", cli_snapshots.list_snapshots),
    ("verify", cli_snapshots.verify),
    ("activate", cli_snapshots.activate),
    ("rollback", cli_snapshots.rollback),
    ("gc", cli_snapshots.gc),
):
    app.command(name)(command)


class Engine(StrEnum):
    """The engines of `--engine`."""

    AUTO = "auto"
    HNSW = "hnsw"
    SCAN = "scan"
    EXACT = "exact"
    MILVUS = "milvus"


#: The same for all points of a report; the line under the table names them.
_FIXED = ("ef_construction", "codes")
_HOME = typer.Option(DEFAULT_HOME, "--home", help="Folder of the encoder, the catalogue and the snapshots.")
_STORE = typer.Option("", help="URL of the catalogue store [default: the file in the home].")


@app.command()
def build(
    home: Path = _HOME,
    precision: Precision = typer.Option(Precision.AUTO, help="Encoder to use; auto: the one that is served."),
    engine: Engine = typer.Option(
        Engine.AUTO, help="What searches; auto: the cheapest of hnsw, scan and exact that reaches the recall."
    ),
    recall: float = typer.Option(0.98, help="Recall@10 to reach for user vectors, against exact search."),
    force: bool = typer.Option(False, "--force", help="Build even when the published index is up to date."),
    vectors: Path | None = typer.Option(None, help="Output of `recserve catalogue encode`, whose vectors are taken."),
    store: str = _STORE,
    interactions: str = typer.Option("", help="URL of the interaction store [default: the file in the home]."),
    rules: Path | None = typer.Option(None, help="Rules that weigh interactions, as served; none = the built-in ones."),
    milvus_uri: str = MILVUS_URI,
    milvus_token_file: str = MILVUS_TOKEN,
) -> None:
    """Encode the catalogue, choose the engine and its parameters by measurement, publish a snapshot."""
    check_recall(recall)
    with explained(OSError):
        from recserve_export.encoder.checks.canonical import verify_stored
        from recserve_export.index.build import build as build_snapshot
        from recserve_export.index.engine_choice import Settings
        from recserve_server_ext.config.milvus import MilvusSettings
        from recserve_server_ext.encoder.selection import choose_encoder
        from recserve_server_ext.encoder.versions import active

        workspace = Workspace(home)
        encoder = choose_encoder(workspace, precision.value)
        served = active(workspace)
        if served is not None and served.folder != encoder:
            verify_stored(encoder)  # as for `recserve encoder activate`: it will be served
        built = build_snapshot(
            workspace,
            encoder,
            Settings(engine=engine.value, recall=recall),
            store=store,
            force=force,
            encoded=vectors,
            milvus=MilvusSettings(uri=milvus_uri, token_file=milvus_token_file),
            log=_logged(workspace, interactions, rules),
            stage=stage_bar,
        )
        _print_built(built, vectors)


@app.command()
def report(
    home: Path = _HOME,
    json: bool = typer.Option(False, "--json", help="Print the report as JSON."),
    plot: Path | None = typer.Option(None, "--plot", help="Also draw the curve into this PNG file."),
    space: str = typer.Option("text", help="Space of the index."),
) -> None:
    """Print the recall curve of the published index, with the chosen parameters marked."""
    with explained(OSError):
        from recserve_export.index.build import read_report
        from recserve_server_ext.index.snapshot import current

        folder = current(Workspace(home).snapshots)
        found = read_report(folder, space)
        if plot is not None:
            _draw(found, plot)
        if json:
            _print_json(found)
        else:
            _print_report(found, folder.name)


@app.command()
def compact(
    home: Path = _HOME,
    precision: Precision = typer.Option(Precision.AUTO, help="Encoder to use; auto: the one that is served."),
    store: str = _STORE,
    threads: int = typer.Option(0, help="Threads of the build; 0: the usable cores.", min=0),
    milvus_uri: str = MILVUS_URI,
    milvus_token_file: str = MILVUS_TOKEN,
) -> None:
    """Publish a snapshot with all changes so far, by the engine that was chosen; serving goes on."""
    with explained(OSError):
        from recserve_export.index.compact import compact as make
        from recserve_server_ext.catalogue.store import CatalogueStore
        from recserve_server_ext.config.milvus import MilvusSettings
        from recserve_server_ext.encoder.selection import choose_encoder

        workspace = Workspace(home)
        encoder = choose_encoder(workspace, precision.value)
        with CatalogueStore(workspace.store_at(store)) as opened:
            milvus = MilvusSettings(uri=milvus_uri, token_file=milvus_token_file)
            done = make(opened, workspace.snapshots, encoder, threads or None, milvus)
        if done is None:
            note("nothing has changed since the published snapshot")
        else:
            out.print(f"snapshot {done.id}: {done.items:,} items of revision {done.revision}", highlight=False)


def _logged(workspace: Workspace, interactions: str, rules: Path | None) -> LoggedUsers:
    """The users of the log, to measure with."""
    from recserve_export.index.build import LoggedUsers
    from recserve_server_ext.config.history import HistoryRules, read_rules

    where = store_place(interactions) if interactions else workspace.interactions
    return LoggedUsers(where, HistoryRules() if rules is None else read_rules(rules))


def _print_built(built: Built, vectors: Path | None) -> None:
    manifest, point = built.manifest, built.report.points[built.report.choice.point]
    if not built.is_new:
        unused = "" if vectors is None else f"; no vector of {vectors} was needed"
        note(f"the index is up to date: snapshot {manifest.id}{unused}")
    if not built.report.choice.reached:
        note(f"warning: no measured parameters reach recall@10 {built.report.target:g}; the nearest were chosen")
    if built.report.truncated_texts:
        note(_cut(built.report))
    found = ", ".join(f"{kind} {value:.3f}" for kind, value in point.recall.items())
    out.print(
        f"snapshot {manifest.id}: {manifest.items:,} items of revision {manifest.revision}\n"
        f"encoder {manifest.encoder}, {_named(point)}\n"
        f"recall@10 for user vectors: {found} (measured with {built.report.users_from})",
        highlight=False,
        soft_wrap=True,
    )
    if vectors is not None and built.origins is not None:
        known, taken, encoded = built.origins
        out.print(
            f"item vectors: {taken:,} from {vectors}, {encoded:,} encoded, {known:,} there already",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _cut(report: RecallReport) -> str:
    return (
        f"{report.truncated_texts:,} of {report.encoded_texts:,} texts that were encoded are longer than the encoder "
        "takes and were cut off"
    )


def _print_json(report: RecallReport) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())


def _print_report(report: RecallReport, snapshot: str) -> None:
    kinds = list(report.points[0].recall)
    table = Table(title=f"recall@{report.k} for user vectors against exact search", title_justify="left")
    for name in ("engine", "parameters"):
        table.add_column(name)
    for name in (*kinds, "users/s", "CPU us/user"):
        table.add_column(name, justify="right")
    table.add_column("")
    for at, (point, following) in enumerate(zip(report.points, [*report.points[1:], None], strict=True)):
        chosen = at == report.choice.point
        table.add_row(*_cells(point, kinds), "chosen" if chosen else "", style="bold" if chosen else None)
        if following is not None and _index_of(following) != _index_of(point):
            table.add_section()
    out.print(table)
    lines = [
        f"snapshot {snapshot}: {report.items:,} items of {report.dim} dimensions, "
        f"{_named(report.points[report.choice.point])}",
        f"{report.users_from}: {report.users} users of each kind, seed {report.seed}, {report.threads} threads, "
        f"{report.cpu} ({', '.join(report.cpu_flags)})",
        f"target {report.target:g} for the worse kind, by its lower 95% bound"
        + ("" if report.choice.reached else ": not reached, the nearest was chosen"),
        _cut(report),
    ]
    for line in lines:
        out.print(line, highlight=False, markup=False)


def _cells(point: CurvePoint, kinds: list[str]) -> list[str]:
    parameters = " ".join(f"{name} {value}" for name, value in point.parameters.items() if name not in _FIXED)
    recalls = [f"{point.recall[kind]:.4f}" for kind in kinds]
    return [point.engine, parameters, *recalls, f"{point.users_per_s:,.0f}", f"{point.cpu_us_per_user:,.0f}"]


def _named(point: CurvePoint) -> str:
    return " ".join([point.engine, *(f"{name} {value}" for name, value in point.parameters.items())])


def _index_of(point: CurvePoint) -> str:
    """Names the index that a point was measured on: its engine and the parameters it was built with."""
    built = {name: value for name, value in point.parameters.items() if name in ("M", "lists")}
    return " ".join([point.engine, *(f"{name} {value}" for name, value in built.items())])


def _front(points: list[CurvePoint], kind: str) -> list[CurvePoint]:
    """The points that no other one beats in both speed and recall, by rising speed."""
    front: list[CurvePoint] = []
    for point in sorted(points, key=lambda point: -point.users_per_s):
        if not front or point.recall[kind] > front[-1].recall[kind]:
            front.append(point)
    return front[::-1]


def _draw(report: RecallReport, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        fail("--plot needs matplotlib: pip install 'recserve[bench]'")
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, index in enumerate(dict.fromkeys(map(_index_of, report.points))):
        points = [point for point in report.points if _index_of(point) == index]
        for kind, line in zip(points[0].recall, ("-", "--", ":"), strict=False):
            speeds, recalls = zip(*((point.users_per_s, point.recall[kind]) for point in points), strict=True)
            axes.plot(speeds, recalls, "o", color=f"C{number}", markersize=3, alpha=0.5)
            front = _front(points, kind)
            speeds, recalls = zip(*((point.users_per_s, point.recall[kind]) for point in front), strict=True)
            axes.plot(speeds, recalls, f"o{line}", color=f"C{number}", label=f"{index}, {kind}")
    chosen = report.points[report.choice.point]
    axes.axhline(report.target, color="grey", linewidth=1, label=f"target {report.target:g}")
    axes.axvline(chosen.users_per_s, color="grey", linewidth=1, linestyle=":", label=f"chosen: {_named(chosen)}")
    axes.set(
        xscale="log",
        xlabel=f"users/s ({report.threads} threads, {report.cpu})",
        ylabel=f"recall@{report.k}",
        title=f"{report.items:,} items, {report.users_from}",
    )
    axes.legend(fontsize="small")
    figure.savefig(path, format="png", dpi=120)
