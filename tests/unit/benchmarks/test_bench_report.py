"""Targets, tables and the plot of the benchmark, from figures made up here."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recserve_benchmarks.harness.report import (
    Target,
    costs_table,
    draw,
    machine,
    notes,
    targets,
    targets_table,
    value_of,
)
from recserve_benchmarks.recommend.bench import MEASURED, Plan, Samples

RESULTS: dict[str, Any] = {
    "known": {"ratio_to_raw": 0.72, "recall_at_10": 0.987, "overhead_to_echo": 2.6},
    "texts": {"ratio_to_raw": 0.8},
    "chosen": {"recall_at_10": 0.99, "p50_ms": 0.9},
    "one_caller": {"p50_ms": 1.2, "raw_p50_ms": 0.7, "echo_p50_ms": 0.3, "allowed_ms": 1.3},
    "memory": {"start_mb": 400.0, "before_mb": 578.0, "after_mb": 577.0, "growth_mb": -1.0, "requests": 50_000},
    "costs": {
        what: {"cpu_us": 1234.5, "users_per_s": 98765.4}
        | ({} if what.startswith("raw") else {"p50_ms": 21.2, "p99_ms": 1519.9, "batch": 15.2})
        for what in MEASURED
    },
    "spread": {"known.ratio_to_raw": (0.683, 0.72)},
    "sweep": [
        {"callers": 1, "users_per_s": 500.0, "p50_ms": 1.5, "p99_ms": 2.9},
        {"callers": 8, "users_per_s": 900.0, "p50_ms": 8.0, "p99_ms": 12.0},
        {"callers": 64, "users_per_s": 1000.0, "p50_ms": 60.0, "p99_ms": 90.0},
    ],
    "setup": {"items": 65_000, "quick": False},
}


def printed(part: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_targets_are_those_that_were_set() -> None:
    assert [(target.name, target.bound, target.goal) for target in targets(RESULTS)[:4]] == [
        ("known.ratio_to_raw", 0.7, 0.85),
        ("known.recall_at_10", 0.98, None),
        ("known.overhead_to_echo", 2.5, 1.5),
        ("texts.ratio_to_raw", 0.75, 0.9),
    ]
    met = {target.name: target.met(value_of(RESULTS, target.name)) for target in targets(RESULTS)}
    assert [name for name, is_met in met.items() if not is_met] == ["known.overhead_to_echo"]


@pytest.mark.parametrize(("at_least", "below", "above"), [(True, False, True), (False, True, False)])
def test_a_target_is_met_on_its_own_side_and_at_its_bound(*, at_least: bool, below: bool, above: bool) -> None:
    target = Target("x.y", 0.5, None, at_least)
    assert (target.met(0.49), target.met(0.5), target.met(0.51)) == (below, True, above)


def test_tables_fit_and_name_all_that_was_measured() -> None:
    costs, goals = printed(costs_table(RESULTS)), printed(targets_table(RESULTS, targets(RESULTS)))
    assert max(len(line) for line in (costs + goals).splitlines()) <= 100
    assert len(costs.splitlines()) == 1 + len(MEASURED)
    assert "0.683-0.720" in goals.splitlines()[1]
    assert [line.split()[-1] for line in goals.splitlines()[1:]] == ["yes", "yes", "no", *["yes"] * 5]


def test_a_trial_is_called_one() -> None:
    assert not any("trial" in line for line in notes(RESULTS))
    for change in ({"items": 1000}, {"quick": True}):
        trial = copy.deepcopy(RESULTS)
        trial["setup"] |= change
        assert "trial" in notes(trial)[-1]


def test_samples_give_the_median_of_the_rounds() -> None:
    samples = Samples()
    for value in (5.0, 1.0, 3.0):
        samples.add("x", value)
    assert samples.median("x") == 3
    assert samples.values == {"x": [5, 1, 3]}


def test_a_plan_has_five_rounds_and_1_to_64_callers() -> None:
    plan = Plan()
    assert (plan.rounds, plan.sweep[0], plan.sweep[-1], plan.soak) == (5, 1, 64, 50_000)


def test_the_machine_is_named() -> None:
    found = machine()
    assert found["int8_arithmetic"] in ("vnni", "avx2")
    assert found["cores"] >= 1
    assert found["versions"]["hnswlib"]


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
