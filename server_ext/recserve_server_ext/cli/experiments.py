"""`recserve experiments`: the running experiments of a home."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from recserve_client.cli.console import explained, fail, note, out
from recserve_client.cli.tables import table
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Start, end and list experiments; running servers follow.", no_args_is_help=True)

_Home = Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")]


@app.callback()
def _experiments() -> None:
    """Start, end and list experiments; running servers follow."""


@app.command()
def start(
    file: Annotated[Path, typer.Argument(help="The experiment, as TOML, or as JSON with the ending .json.")],
    home: _Home = DEFAULT_HOME,
) -> None:
    """Start an experiment. Running servers serve it within two seconds; one that cannot says so in its log."""
    from recserve_server_ext.config.experiments import version_of
    from recserve_server_ext.recommend.experiments.file import parse_experiment, start_experiment

    try:
        experiment = parse_experiment(file.read_bytes(), is_toml=file.suffix != ".json")
        start_experiment(Workspace(home).experiments, experiment)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror or error}", code=2)
    except ServerError as error:
        fail(str(error))
    note(
        f"experiment {experiment.name}, version {version_of(experiment)}, runs with {len(experiment.variants)} variants"
    )


@app.command()
def end(
    name: Annotated[str, typer.Argument(help="Name of the experiment.")],
    home: _Home = DEFAULT_HOME,
) -> None:
    """End an experiment: its users are answered as all others. `recserve outcomes report` goes on telling of it."""
    from recserve_server_ext.recommend.experiments.file import end_experiment

    with explained(ServerError):
        ended = end_experiment(Workspace(home).experiments, name)
    note(f"experiment {ended.name} is ended")


@app.command("list")
def list_experiments(
    home: _Home = DEFAULT_HOME,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the running experiments."""
    from recserve_server_ext.config.experiments import version_of
    from recserve_server_ext.recommend.experiments.file import read_experiments

    with explained(ServerError):
        running = read_experiments(Workspace(home).experiments)
    if as_json:
        sys.stdout.write(msgspec.json.encode(running).decode() + "\n")
        return
    rows = [
        (one.name, version_of(one), one.layer, f"{one.share:.0%}",
         ", ".join(f"{variant.name} ({variant.weight:g})" for variant in one.variants))
        for one in running
    ]  # fmt: skip
    out.print(table(("name", "version", "layer", "share", "variants"), rows) if rows else "no experiment runs")
