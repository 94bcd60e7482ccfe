"""`recserve top`: what a running server does, in a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Final

import typer

from recserve_client.cli.console import fail, out

if TYPE_CHECKING:
    from rich.console import RenderableType

    from recserve_server_ext.triton.metrics.page import MetricsPage

app = typer.Typer(help="Show what a running server does.")
_TIMEOUT_S: Final = 5.0
#: Gauges and counters of the first lines: name, metric, unit.
_STATE: Final = (
    ("catalogue revision", "recserve_catalogue_revision"),
    ("items of the snapshot", "recserve_catalogue_snapshot_items"),
    ("changed since", "recserve_catalogue_delta_items"),
    ("revisions behind", "recserve_catalogue_revision_lag"),
    ("wait for the encoder", "recserve_encoder_waiting_requests"),
    ("admitted", "recserve_admitted_requests"),
    ("interactions in the log", "recserve_log_interactions"),
    ("answers not logged", "recserve_answers_lost_total"),
)


@app.callback(invoke_without_command=True)
def top(
    metrics: Annotated[str, typer.Option(help="host:port of the server's metrics.")] = "127.0.0.1:8002",
    every_s: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look twice, print that and end.")] = False,
) -> None:
    """Show requests a second, batches and waits of each model, and the state of the catalogue, until Ctrl-C."""
    from rich.live import Live

    from recserve_server_ext.triton.metrics.page import MetricsError, read_metrics

    try:
        page = read_metrics(metrics, _TIMEOUT_S)
        if once:
            time.sleep(every_s)
            out.print(_picture(metrics, page, read_metrics(metrics, _TIMEOUT_S)))
            return
        with Live(_picture(metrics, page, page), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(every_s)
                before, page = page, read_metrics(metrics, _TIMEOUT_S)
                live.update(_picture(metrics, before, page), refresh=True)
    except MetricsError as error:
        fail(f"{error}; name the metrics of a server that runs: --metrics")


def _picture(address: str, before: MetricsPage, after: MetricsPage) -> RenderableType:
    """The state of the server, and the load of each model between two pages."""
    from rich.console import Group
    from rich.table import Table

    from recserve_server_ext.triton.metrics.page import loads_between

    state = Table(box=None, show_header=False, pad_edge=False)
    for places in range(0, len(_STATE), 2):
        cells = [(name, f"{after.total(metric):,.0f}") for name, metric in _STATE[places : places + 2]]
        state.add_row(*(text for cell in cells for text in cell))
    shed = after.total("recserve_requests_shed_total") - before.total("recserve_requests_shed_total")
    made_s = after.total("recserve_catalogue_snapshot_created_timestamp_seconds")
    age = f"{(time.time() - made_s) / 3600:,.1f} h" if made_s else "-"
    state.add_row("age of the snapshot", age, "refused for load", f"{max(shed, 0):,.0f}")
    models = Table(box=None, header_style="bold", pad_edge=False, title=f"{address}, {time.strftime('%H:%M:%S')}")
    models.title_justify = "left"
    models.add_column("model")
    for name in ("answered/s", "failed/s", "batch", "queue ms", "work ms", "pending"):
        models.add_column(name, justify="right")
    for load in loads_between(before, after):
        models.add_row(
            load.model,
            f"{load.answered_per_s:,.0f}",
            f"{load.failed_per_s:,.0f}",
            f"{load.batch:.1f}",
            f"{load.queue_ms:.1f}",
            f"{load.work_ms:.1f}",
            f"{load.pending:,}",
        )
    return Group(models, "", state)
