"""`recserve evaluate`: how good recommendations are, measured offline on a log of what users did."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recserve_benchmarks.cli.common import Home, JsonFile, Output, Plot, encoder_of
from recserve_export.cli.options import Precision
from recserve_server_ext.common.workspace import DEFAULT_HOME

app = typer.Typer(help="Measure offline how good recommendations are.", no_args_is_help=True)


@app.callback()
def evaluate() -> None:
    """Measure offline how good recommendations are."""


@app.command()
def history(
    dataset: Annotated[Path, typer.Option(help="RecBole .inter file, or a folder with one; .item beside it.")],
    home: Home = DEFAULT_HOME,
    precision: Precision = "auto",
    seeds: Annotated[int, typer.Option(help="Seeds that break ties; figures are means over them.", min=3, max=20)] = 3,
    system: Annotated[list[str] | None, typer.Option(help="Only this system; repeatable (all if none).")] = None,
    json_file: JsonFile = None,
    plot: Plot = None,
) -> None:
    """Rank all items for users of a log: baselines, and every registered strategy as it is served."""
    output = Output(json_file, plot)
    with output.measuring() as show:
        from recserve_benchmarks.evaluation import report, run
        from recserve_benchmarks.evaluation.data import read_dataset
        from recserve_benchmarks.evaluation.systems import named
        from recserve_server_ext.encoder.text_encoder import TextEncoder

        chosen, data = named(system or []), read_dataset(dataset)
        _, folder = encoder_of(home, precision)
        results = run.evaluate(data, TextEncoder(folder), chosen, range(seeds), show)
    output.write(results, report.parts(results), report.draw)
