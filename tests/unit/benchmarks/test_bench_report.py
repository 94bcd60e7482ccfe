"""Rounds, targets, tables and the plot of `recserve bench recommend`, from figures made up here."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recserve_benchmarks.harness.report import Target, cautions, machine, matrix, targets_table, value_of
from recserve_benchmarks.harness.run import Rounds, Run
from recserve_benchmarks.recommend.bench import Sizes, encoder_share
from recserve_benchmarks.recommend.report import draw, parts, targets
from recserve_client.contract import RecommendTimings
from recserve_server_ext.common.workspace import Workspace

MEASURED = (
    *("raw_interests", "raw_random", "raw_chosen_interests", "echo", "serve_interests", "serve_random"),
    *("chosen_interests", "chosen_random", "raw_texts", "serve_texts"),
)

RESULTS: dict[str, Any] = {
    "known": {"ratio_to_raw": 0.82, "recall_at_10": 0.987, "overhead_to_echo": 2.6},
    "texts": {"ratio_to_raw": 0.8, "encoder_share": 0.7},
    "chosen": {"recall_at_10": 0.99, "p50_ms": 0.9, "raw_to_chosen": 2.7, "overhead_to_echo": 1.4},
    "one_caller": {"p50_ms": 1.2, "raw_p50_ms": 0.7, "echo_p50_ms": 0.3, "allowed_ms": 1.3},
    "memory": {
        "start_s": 2.5,
        "start_mb": 400.0,
        "before_mb": 578.0,
        "after_mb": 577.0,
        "growth_mb": -1.0,
        "requests": 50_000,
    },
    "costs": {
        what: {"cpu_us": 1234.5, "users_per_s": 98765.4}
        | ({} if what.startswith("raw") else {"p50_ms": 21.2, "p99_ms": 1519.9, "batch": 15.2})
        for what in MEASURED
    },
    "spread": {"known.ratio_to_raw": (0.683, 0.82)},
    "sweep": [
        {"callers": 1, "users_per_s": 500.0, "p50_ms": 1.5, "p99_ms": 2.9},
        {"callers": 8, "users_per_s": 900.0, "p50_ms": 8.0, "p99_ms": 12.0},
        {"callers": 64, "users_per_s": 1000.0, "p50_ms": 60.0, "p99_ms": 90.0},
    ],
    "setup": {
        "cpu": "A CPU",
        "int8_arithmetic": "avx2",
        "cores": 2,
        "items": 65_000,
        "quick": False,
        "engine": {"name": "hnsw", "M": 16},
        "chosen_engine": {"name": "scan"},
    },
}


def printed(part: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(part)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_targets_are_those_that_were_set() -> None:
    assert [(target.name, target.bound, target.goal) for target in targets(RESULTS)[:6]] == [
        ("known.ratio_to_raw", 0.8, 0.85),
        ("known.recall_at_10", 0.985, None),
        ("known.overhead_to_echo", 1.8, 1.2),
        ("chosen.raw_to_chosen", 2.6, 3.5),
        ("chosen.overhead_to_echo", 1.5, 1.2),
        ("texts.ratio_to_raw", 0.8, 0.9),
    ]
    met = {target.name: target.met(value_of(RESULTS, target.name)) for target in targets(RESULTS)}
    assert [name for name, is_met in met.items() if not is_met] == ["known.overhead_to_echo"]


@pytest.mark.parametrize(("at_least", "below", "above"), [(True, False, True), (False, True, False)])
def test_a_target_is_met_on_its_own_side_and_at_its_bound(*, at_least: bool, below: bool, above: bool) -> None:
    target = Target("x.y", 0.5, at_least=at_least)
    assert (target.met(0.49), target.met(0.5), target.met(0.51)) == (below, True, above)


def test_tables_fit_and_name_all_that_was_measured() -> None:
    costs, goals = printed(matrix(RESULTS["costs"])), printed(targets_table(RESULTS, targets(RESULTS)))
    assert max(len(line) for line in (costs + goals).splitlines()) <= 100
    assert [line.split()[0] for line in costs.splitlines()[1:]] == list(MEASURED)
    assert costs.splitlines()[1].split()[1:] == ["1,234", "98,765"]
    assert "0.683-0.820" in goals.splitlines()[1]
    assert [line.split()[-1] for line in goals.splitlines()[1:]] == ["yes", "yes", "no", *["yes"] * 7]


def test_a_trial_is_called_one() -> None:
    assert cautions(RESULTS) == []
    for change in ({"items": 1000}, {"quick": True}):
        trial = copy.deepcopy(RESULTS)
        trial["setup"] |= change
        (line,) = cautions(trial)
        assert "trial" in line
        assert line in parts(trial)


def test_cpu_contention_is_told() -> None:
    assert cautions({**RESULTS, "rounds": {"contention": [0.01, 0.02]}}) == []
    (line,) = cautions({**RESULTS, "rounds": {"contention": [0.01, 0.4, 0.02]}})
    assert "up to 40% of the cores, in a round" in line


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_company_beside_the_rounds_is_told(when: str) -> None:
    quiet = {**RESULTS["setup"], "contention": {"before": 0.01, "during": 0.02, "after": 0.0}}
    assert cautions({"setup": quiet}) == []
    (line,) = cautions({"setup": {**quiet, "contention": {**quiet["contention"], when: 0.3}}})
    assert f"up to 30% of the cores, {when}" in line


def test_the_share_of_the_encoder_is_of_all_stages() -> None:
    timings = [RecommendTimings(10, 20, us, 30, 40, "scan") for us in (300, 100, 0)]
    assert encoder_share(timings) == 0.5


def test_rounds_give_medians_by_the_parts_of_their_names_and_ranges() -> None:
    seen: list[tuple[str, int, int]] = []
    run = Run(workspace=Workspace(Path()), encoder=Path(), rounds=3, show=lambda *of: seen.append(of))
    rounds = Rounds()
    for number in rounds.each(run):
        rounds.add("a.b", x=(5.0, 1.0, 3.0)[number], y=2.0)
    results = rounds.results()
    assert results["a"] == {"b": {"x": 3, "y": 2}}
    assert results["spread"]["a.b.x"] == (1, 5)
    assert results["rounds"]["a.b.x"] == [5, 1, 3]
    assert len(results["rounds"]["contention"]) == 3
    assert [count for _, count, _ in seen] == [0, 1, 2, 3]


def test_a_full_run_has_1_to_64_callers_and_a_soak() -> None:
    sizes = Sizes()
    assert (sizes.sweep[0], sizes.sweep[-1], sizes.soak) == (1, 64, 50_000)


def test_the_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/some/bin/recserve", "bench", "serve"])
    found = machine()
    assert found["int8_arithmetic"] in ("vnni", "avx2")
    assert found["cores"] >= 1
    assert found["versions"]["hnswlib"]
    assert found["command"] == "recserve bench serve"


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw(RESULTS, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
