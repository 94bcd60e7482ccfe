"""`recserve bench` on real servers, tiny: that its commands measure, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recserve_benchmarks.check.bench import FIGURES
from recserve_benchmarks.encode.bench import GRPC, OURS, PLAIN, TORCH
from recserve_benchmarks.encode.systems import PEERS
from recserve_benchmarks.harness.report import installed
from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.interactions.store import InteractionStore
from support.postgres import Postgres
from support.tiny_home import copy_home

MEASURED = {
    *(
        "raw_interests",
        "raw_random",
        "raw_chosen_interests",
        "raw_chosen_random",
        "echo",
        "serve_interests",
        "serve_random",
    ),
    *("chosen_interests", "chosen_random", "raw_texts", "serve_texts"),
}
PROGRAM = [sys.executable, "-m", "recserve_client.cli.main", "bench"]


def bench(*options: str, command: str = "recommend") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, command, *options], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.triton
def test_a_tiny_run_measures_everything(tiny_home: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "bench.json", tmp_path / "bench.png"
    copy_home(tiny_home, home)
    sizes = ["--items", "1000", "--rounds", "2", "--quick"]
    ran = bench("--home", str(home), *sizes, "--json", str(report), "--plot", str(plot))
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    assert "a trial, not to be quoted" in ran.stdout
    results = json.loads(report.read_text())
    assert set(results["costs"]) == MEASURED
    assert all(cost["cpu_us"] > 0 and cost["users_per_s"] > 0 for cost in results["costs"].values())
    assert all(1 <= results["costs"][what]["batch"] <= 32 for what in ("echo", "serve_interests", "serve_random"))
    assert results["known"]["recall_at_10"] >= 0.95
    assert results["known"]["recall_at_10"] == min(
        results["known"][f"recall_at_10_{kind}"] for kind in ("interests", "random")
    )
    assert results["chosen"]["recall_at_10"] >= 0.95
    assert 0 < results["texts"]["encoder_share"] < 1
    assert results["setup"]["chosen_engine"]["name"] in {"hnsw", "scan", "exact"}
    assert [point["callers"] for point in results["sweep"]] == [1, 8, 32]
    assert all(point["p50_ms"] <= point["p99_ms"] for point in results["sweep"])
    assert len(results["memory"]["series_mb"]) == 11
    assert 0 < results["memory"]["start_s"] < 60
    assert len(results["rounds"]["costs.raw_interests.cpu_us"]) == 2
    assert len(results["rounds"]["contention"]) == 2
    least, most = results["spread"]["known.ratio_to_raw"]
    assert 0 < least <= most
    assert results["setup"]["items"] == 1000
    assert results["setup"]["cpu_flags"]
    assert "--items 1000" in results["setup"]["command"]
    assert plot.stat().st_size > 0


@pytest.mark.triton
def test_a_tiny_check_compares_with_a_recorded_run(tiny_home: Path, tmp_path: Path) -> None:
    home, first, second = tmp_path / "home", tmp_path / "first.json", tmp_path / "second.json"
    copy_home(tiny_home, home)
    sizes = ["--home", str(home), "--items", "1000", "--rounds", "3", "--quick"]
    ran = bench(*sizes, "--json", str(first), command="check")
    assert ran.returncode == 0, ran.stderr
    recorded = json.loads(first.read_text())
    # What was recorded as a hundred times better is now worse, whatever the noise.
    for name, more_is_better in FIGURES.items():
        values = recorded["rounds"][name]
        recorded["rounds"][name] = [value * (100 if more_is_better else 0.01) for value in map(abs, values)]
    first.write_text(json.dumps(recorded))
    ran = bench(*sizes, "--baseline", str(first), "--json", str(second), command="check")
    assert ran.returncode == 1, ran.stderr
    assert "worse" in ran.stdout
    assert set(json.loads(second.read_text())["rounds"]) >= set(FIGURES)


@pytest.mark.triton
def test_a_tiny_run_measures_http_beside_grpc(tiny_home: Path, tmp_path: Path) -> None:
    home, report = tmp_path / "home", tmp_path / "http.json"
    copy_home(tiny_home, home)
    sizes = ["--items", "1000", "--rounds", "2", "--quick"]
    ran = bench("--home", str(home), *sizes, "--json", str(report), command="http")
    assert ran.returncode == 0, ran.stderr
    assert "HTTP has" in ran.stdout
    results = json.loads(report.read_text())
    for of in results["of"].values():
        assert of["users_per_s"] > 0
        assert 0 < of["p50_ms"] <= of["p99_ms"]
    assert len(results["rounds"]["ratio.users"]) == 2
    assert 0 < results["ratio"]["http_cpu_us"] < results["of"]["http"]["cpu_us"]


@pytest.mark.triton
def test_a_tiny_run_measures_each_strategy_that_is_trained(tiny_home: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "strategies.json", tmp_path / "strategies.png"
    copy_home(tiny_home, home)
    options = ["--home", str(home), "--items", "1000", "--items", "1500", "--rounds", "2", "--quick"]
    ran = bench(*options, "--json", str(report), "--plot", str(plot), command="strategies")
    assert ran.returncode == 0, ran.stderr
    results = json.loads(report.read_text())
    assert list(results["sizes"]) == ["1000", "1500"]
    assert results["strategies"] == results["sizes"]["1000"]["strategies"]
    trained = {"als", "ease", "item_knn", "transitions", "hybrid", "linear", "fusion", "fusion_by_rank"}
    for of in results["sizes"].values():
        assert trained <= set(of["strategies"])
        assert "recserve train item2vec" in of["refused"]["item2vec"]
        assert of["strategies"]["text"]["ratio_to_text"] == 1.0
        assert all(0 < figures["p50_ms"] <= figures["p99_ms"] for figures in of["strategies"].values())
    assert plot.stat().st_size > 0
    # A home without a log is refused, as there is nobody to ask for.
    ran = bench("--home", str(home), "--quick", command="strategies")
    assert ran.returncode == 1
    assert "interactions" in ran.stderr


@pytest.mark.triton
def test_a_tiny_run_retrieves_in_every_way(tiny_home: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "retrieve.json", tmp_path / "retrieve.png"
    copy_home(tiny_home, home)
    options = ["--home", str(home), "--items", "1000", "--rounds", "1", "--quick"]
    ran = bench(*options, "--json", str(report), "--plot", str(plot), command="retrieve")
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    assert "a trial, not to be quoted" in ran.stdout
    results = json.loads(report.read_text())
    (size,) = results["sizes"]
    assert size["items"] == 1000
    for engine in ("hnsw", "scan", "exact"):
        for point in size["engines"][engine]:
            assert all(0 <= recall <= 1 for recall in point["recall_at_10"].values())
            assert set(point["recall_at_10"]) == {"interests", "random"}
            assert set(point["users_per_s"]) == {"1", "8", "32"}
            assert all(speed > 0 for speed in point["users_per_s"].values())
    assert all(point["recall_at_10"]["random"] == 1 for point in size["engines"]["exact"])
    assert {"hnsw", "exact"} <= set(size["at_recall"])
    assert size["chosen"] in size["at_recall"]
    assert size["start_s"] > 0
    assert size["private_mb"] > 0
    assert size["disk_mb"] > 0
    assert results["user_vectors"]["best_to_hnsw"] > 0
    assert results["ratio_to_raw"]["no_delta"] > 0
    assert results["ratio_to_raw"]["delta_1pct"] > 0
    assert set(results["filtered"]) == {"1/1000", "1/20", "1/2"}
    assert all(of["recall_at_10"] > 0.95 and of["ratio_to_unfiltered"] > 0 for of in results["filtered"].values())
    swap = results["swap_under_load"]
    assert swap["failed"] == 0
    assert swap["upserts"] >= 600
    assert swap["timeline"]["compaction_started_s"] < swap["timeline"]["swapped_s"]
    assert plot.stat().st_size > 0


@pytest.mark.triton
def test_a_tiny_run_encodes_in_every_way(tiny_home: Path, source: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "encode.json", tmp_path / "encode.png"
    copy_home(tiny_home, home)
    options = ["--home", str(home), "--source", str(source), "--rounds", "2", "--quick"]
    ran = bench(*options, "--json", str(report), "--plot", str(plot), command="encode")
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    assert "a trial, not to be quoted" in ran.stdout
    results = json.loads(report.read_text())
    peers = {name for name, package in PEERS.items() if installed(package)}
    assert set(results["systems"]) == {TORCH, PLAIN, OURS, GRPC, *peers}
    assert {name for name, found in results["peers"].items() if not found["absent"]} == peers
    assert all(rate > 0 for rates in results["systems"].values() for rate in rates.values())
    assert all(ratio > 0 for ratios in results["ratios"].values() for ratio in ratios.values())
    assert all(found["min_cos"] > 0.9999 for found in results["agreement"].values())
    assert set(results["agreement"]) == {PLAIN, OURS, GRPC, *peers}
    assert results["start"]["first_vector_s"] > 0
    assert all(1 <= size <= 32 for sizes in results["batch"].values() for size in sizes.values())
    assert {len(figures) for figures in results["rounds"].values()} == {2}
    assert results["texts"]["descriptions"]["count"] == 100
    assert results["setup"]["cpu_flags"]
    assert plot.stat().st_size > 0


@pytest.mark.triton
def test_a_tiny_run_measures_users_in_both_stores(tiny_home: Path, tmp_path: Path, postgres: Postgres) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "users.json", tmp_path / "users.png"
    copy_home(tiny_home, home)
    before = {path for path in home.rglob("*") if path.name.startswith(("interactions.db", "pseudonym.key"))}
    url = postgres.empty()
    options = ["--home", str(home), "--items", "1000", "--rounds", "1", "--users", "300", "--quick"]
    ran = bench(*options, "--postgres", url, "--json", str(report), "--plot", str(plot), command="users")
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    assert "a trial, not to be quoted" in ran.stdout
    results = json.loads(report.read_text())
    for store in (results, results["postgres"]):
        assert set(store["recommend_by_user"]) == {"20", "50", "500"}
        for of in store["recommend_by_user"].values():
            assert of["ratio_to_caller_history"] > 0
            assert of["p50_ms"] <= of["p99_ms"]
            assert of["cpu_us"] > 0
        assert store["record"]["batched_per_s"] > store["record"]["single_per_s"] > 0
        assert store["record"]["raw_grouped_per_s"] > 0
    # 300 users of 5, 100 of 20, 100 of 50, 25 of 500.
    assert results["interactions_before"] == 300 * 5 + 100 * 20 + 100 * 50 + 25 * 500
    least, most = results["spread"]["recommend_by_user.50.ratio_to_caller_history"]
    assert least <= results["recommend_by_user"]["50"]["ratio_to_caller_history"] <= most
    assert plot.stat().st_size > 0
    # Nothing of the user's own store, nothing left in the database, nothing left aside.
    assert {path for path in home.rglob("*") if path.name.startswith(("interactions.db", "pseudonym.key"))} == before
    assert not list(home.glob("bench-users-*"))
    with pytest.raises(InteractionError, match="not a interactions store"):
        InteractionStore(url)


@pytest.mark.triton
def test_a_tiny_run_measures_overload(tiny_home: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "overload.json", tmp_path / "overload.png"
    copy_home(tiny_home, home)
    options = ["--home", str(home), "--items", "1000", "--quick"]
    ran = bench(*options, "--json", str(report), "--plot", str(plot), command="overload")
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    results = json.loads(report.read_text())
    assert set(results["kinds"]) == {"texts", "known", "users", "mix"}
    for of in results["kinds"].values():
        assert of["capacity_per_s"] > 0
        assert list(of["loads"]) == ["0.5", "1", "2", "5", "10"]
        for load in of["loads"].values():
            assert load["goodput_per_s"] > 0
            assert load["p50_ms"] <= load["p99_ms"]
    assert plot.stat().st_size > 0
