"""Loads of the models between two pages of metrics, and `recserve top` over them."""

from __future__ import annotations

import pytest
from prometheus_client.samples import Sample
from typer.testing import CliRunner

from recserve_server_ext.cli.top import app
from recserve_server_ext.triton.metrics.page import MetricsError, MetricsPage, loads_between, read_metrics
from support.metrics_page import serving, triton_page

BEFORE = {
    "request_success": 10,
    "request_failure": 1,
    "exec_count": 5,
    "queue_duration_us": 1000,
    "compute_infer_duration_us": 0,
}
AFTER = {
    "request_success": 50,
    "request_failure": 3,
    "exec_count": 10,
    "queue_duration_us": 81_000,
    "compute_infer_duration_us": 120_000,
    "pending_request_count": 7,
}


def page(read_s: float, **values: float) -> MetricsPage:
    labels = {"model": "recommend", "version": "1"}
    return MetricsPage([Sample(f"nv_inference_{name}", labels, value) for name, value in values.items()], read_s)


def test_a_load_is_what_grew_in_the_time_between() -> None:
    (load,) = loads_between(page(100, **BEFORE), page(104, **AFTER))
    assert (load.model, load.pending) == ("recommend", 7)
    assert (load.answered_per_s, load.failed_per_s, load.batch) == (10, 0.5, 8)
    assert (load.queue_ms, load.work_ms) == (2, 3)


def test_a_model_that_was_loaded_anew_counts_from_its_start() -> None:
    (load,) = loads_between(page(0, **AFTER), page(2, **BEFORE))
    assert (load.answered_per_s, load.failed_per_s) == (5, 0.5)


def test_a_model_that_did_nothing_has_no_times() -> None:
    (load,) = loads_between(page(0, **AFTER), page(2, **AFTER))
    assert (load.answered_per_s, load.batch, load.queue_ms, load.work_ms) == (0, 0, 0, 0)


def test_nobody_there() -> None:
    with pytest.raises(MetricsError, match=r"127\.0\.0\.1:1/metrics cannot be read"):
        read_metrics("127.0.0.1:1", 5)


def test_top_shows_models_and_the_catalogue() -> None:
    catalogue = b"recserve_catalogue_revision 42\nrecserve_catalogue_snapshot_items 17470\n"
    pages = [triton_page("recommend", **values) + catalogue for values in (BEFORE, AFTER)]
    with serving(*pages) as server:
        shown = CliRunner().invoke(app, ["--metrics", server.address, "--once", "--every-s", "0.2"])
    assert shown.exit_code == 0, shown.output
    (row,) = [line.split() for line in shown.output.splitlines() if line.startswith("recommend")]
    answered, refused, batch, queue_ms, work_ms, pending = row[1:]
    assert 0 < int(answered) <= 200
    assert 0 < int(refused) <= 10
    assert (batch, queue_ms, work_ms, pending) == ("8.0", "2.0", "3.0", "7")
    assert "17,470" in shown.output
    assert "42" in shown.output


def test_top_ends_where_no_server_is() -> None:
    shown = CliRunner().invoke(app, ["--metrics", "127.0.0.1:1", "--once"])
    assert shown.exit_code == 1
