"""Writes the Grafana dashboard `deploy/monitoring/dashboard.json`, by Grafana's own library: ``dashboard.py``."""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from grafana_foundation_sdk.builders import dashboard, prometheus, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphDrawStyle
from grafana_foundation_sdk.models.dashboard import DataSourceRef

TARGET = Path(__file__).parents[2] / "deploy/monitoring/dashboard.json"
_STAGE = "recserve_slate_stage_seconds"
_ALL = '{job="$job", instance=~"$instance"}'
_WIDTH, _HEIGHT = 8, 7


class Chart(NamedTuple):
    """A chart: its title, its unit, and an expression with a legend for each line."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]


def _of(metric: str, **labels: str) -> str:
    more = "".join(f', {name}="{value}"' for name, value in labels.items())
    return f"{metric}{_ALL[:-1]}{more}}}"


def _rate(metric: str, by: str, **labels: str) -> str:
    return f"sum by ({by}) (rate({_of(metric, **labels)}[$__rate_interval]))"


def _quantile(q: float, by: str, **labels: str) -> str:
    return f"histogram_quantile({q}, {_rate(f'{_STAGE}_bucket', f'le, {by}', **labels)})"


ROWS: dict[str, tuple[Chart, ...]] = {
    "Requests": (
        Chart("Answered", "reqps", ((_rate("nv_inference_request_success", "model"), "{{model}}"),)),
        Chart("Refused", "reqps", ((_rate("nv_inference_request_failure", "model, reason"), "{{model}} {{reason}}"),)),
        Chart(
            "Shed for load",
            "reqps",
            ((_rate("recserve_requests_shed_total", "model, reason"), "{{model}} {{reason}}"),),
        ),
        Chart(
            "Admitted",
            "short",
            (
                (f"sum by (model, queue) ({_of('recserve_admitted_requests')})", "{{model}} {{queue}}"),
                (f"sum by (model, queue) ({_of('recserve_admission_limit_requests')})", "most {{model}} {{queue}}"),
            ),
        ),
        Chart(
            "Wait in Triton's queue",
            "µs",
            (
                (
                    f"{_rate('nv_inference_queue_duration_us', 'model')}"
                    f" / {_rate('nv_inference_request_success', 'model')}",
                    "{{model}}",
                ),
            ),
        ),
        Chart(
            "Texts that wait for the encoder",
            "short",
            ((f"sum by (model) ({_of('recserve_encoder_waiting_requests')})", "{{model}}"),),
        ),
    ),
    "Slates": (
        Chart("Slates by strategy", "reqps", ((_rate("recserve_slates_total", "strategy"), "{{strategy}}"),)),
        Chart(
            "Search of a slate, p50 and p99",
            "s",
            (
                (_quantile(0.5, "strategy", stage="search"), "p50 {{strategy}}"),
                (_quantile(0.99, "strategy", stage="search"), "p99 {{strategy}}"),
            ),
        ),
        Chart("Stages, p99", "s", ((_quantile(0.99, "stage"), "{{stage}}"),)),
        Chart(
            "Cold slates",
            "percentunit",
            (
                (
                    f"sum({_rate('recserve_slates_total', 'profile', profile='cold')})"
                    f" / sum({_rate('recserve_slates_total', 'profile')})",
                    "cold",
                ),
            ),
        ),
        Chart(
            "Spread over the catalogue",
            "percentunit",
            (
                (_of("recserve_slate_coverage_ratio"), "coverage {{instance}}"),
                (_of("recserve_slate_top_percent_ratio"), "most recommended hundredth {{instance}}"),
            ),
        ),
        Chart("Entropy of slates", "bits", ((_of("recserve_slate_entropy_bits"), "{{instance}}"),)),
    ),
    "Catalogue and log": (
        Chart(
            "Age of the snapshot",
            "s",
            ((f"time() - {_of('recserve_catalogue_snapshot_created_timestamp_seconds')}", "{{instance}}"),),
        ),
        Chart(
            "Age of each space",
            "s",
            ((f"time() - {_of('recserve_space_created_timestamp_seconds')}", "{{space}} {{instance}}"),),
        ),
        Chart("Changes behind the store", "short", ((_of("recserve_catalogue_revision_lag"), "{{instance}}"),)),
        Chart("Items changed since the snapshot", "short", ((_of("recserve_catalogue_delta_items"), "{{instance}}"),)),
        Chart(
            "Interactions that name an item of the catalogue",
            "percentunit",
            ((f"{_of('recserve_log_known_interactions')} / {_of('recserve_log_interactions')}", "{{instance}}"),),
        ),
        Chart(
            "Clicks of the recommended items, last hour",
            "percentunit",
            (
                (
                    f"max by (strategy) ({_of('recserve_recent_clicks')})"
                    f" / max by (strategy) ({_of('recserve_recent_impressions')} > 0)",
                    "{{strategy}}",
                ),
            ),
        ),
        Chart("Answers logged", "reqps", ((_rate("recserve_answers_logged_total", "instance"), "{{instance}}"),)),
        Chart("Answers lost", "reqps", ((_rate("recserve_answers_lost_total", "reason"), "{{reason}}"),)),
    ),
}


def made() -> str:
    """The dashboard as JSON."""
    source = DataSourceRef(type_val="prometheus", uid="${datasource}")
    board = (
        dashboard.Dashboard("recserve")
        .uid("recserve")
        .refresh("30s")
        .time("now-3h", "now")
        .with_variable(dashboard.DatasourceVariable("datasource").type("prometheus"))
        .with_variable(_variable("job", "label_values(recserve_catalogue_revision, job)", source))
        .with_variable(
            _variable("instance", 'label_values(recserve_catalogue_revision{job="$job"}, instance)', source)
            .multi(True)
            .include_all(True)
        )
    )
    for name, charts in ROWS.items():
        board = board.with_row(dashboard.Row(name))
        for chart in charts:
            panel = (
                timeseries.Panel()
                .title(chart.title)
                .unit(chart.unit)
                .datasource(source)
                .draw_style(GraphDrawStyle.LINE)
                .min(0)
                .span(_WIDTH)
                .height(_HEIGHT)
            )
            for name_of_line, (expression, legend) in zip(ascii_uppercase, chart.lines, strict=False):
                query = prometheus.Dataquery().ref_id(name_of_line).expr(expression).legend_format(legend)
                panel = panel.with_target(query)
            board = board.with_panel(panel)
    return JSONEncoder(sort_keys=True, indent=2).encode(board.build()) + "\n"


def _variable(name: str, query: str, source: DataSourceRef) -> dashboard.QueryVariable:
    return dashboard.QueryVariable(name).query(query).datasource(source)


if __name__ == "__main__":
    TARGET.write_text(made())
