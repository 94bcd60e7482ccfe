"""`recserve bench` on real servers, tiny: that its commands measure, not how fast anything is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recserve_benchmarks.encode.bench import FAST_OURS, SYSTEMS
from recserve_benchmarks.encode.peers import PEERS
from recserve_benchmarks.recommend.bench import MEASURED
from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.interactions.store import InteractionStore
from support.postgres import Postgres
from support.tiny_home import copy_home

PROGRAM = [sys.executable, "-m", "recserve_client.cli.main", "bench"]


def bench(*options: str, command: str = "recommend") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, command, *options], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.triton
def test_a_tiny_run_measures_everything(tiny_home: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "bench.json", tmp_path / "bench.png"
    copy_home(tiny_home, home)
    sizes = ["--items", "1000", "--rounds", "2", "--soak", "100", "--quick"]
    ran = bench("--home", str(home), *sizes, "--json", str(report), "--plot", str(plot))
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    assert "a trial, not to be quoted" in ran.stdout
    results = json.loads(report.read_text())
    assert set(results["costs"]) == set(MEASURED)
    assert all(cost["cpu_us"] > 0 and cost["users_per_s"] > 0 for cost in results["costs"].values())
    assert all(1 <= results["costs"][what]["batch"] <= 32 for what in ("echo", "serve_interests", "serve_random"))
    assert results["known"]["recall_at_10"] >= 0.95
    assert results["known"]["recall_at_10"] == min(
        results["known"][f"recall_at_10_{kind}"] for kind in ("interests", "random")
    )
    assert results["chosen"]["recall_at_10"] >= 0.95
    assert results["setup"]["chosen_engine"]["name"] in {"hnsw", "scan", "exact"}
    assert [point["callers"] for point in results["sweep"]] == [1, 8, 32]
    assert all(point["p50_ms"] <= point["p99_ms"] for point in results["sweep"])
    assert len(results["memory"]["series_mb"]) == 11
    assert len(results["rounds"]["raw_interests_cpu_us"]) == 2
    least, most = results["spread"]["known.ratio_to_raw"]
    assert 0 < least <= most
    assert results["setup"]["items"] == 1000
    assert plot.stat().st_size > 0


@pytest.mark.triton
def test_a_tiny_run_retrieves_in_every_way(tiny_home: Path, tmp_path: Path) -> None:
    home, report, plot = tmp_path / "home", tmp_path / "retrieve.json", tmp_path / "retrieve.png"
    copy_home(tiny_home, home)
    options = ["--home", str(home), "--items", "1000", "--rounds", "1", "--quick", "--scan-budget", "0"]
    ran = bench(*options, "--json", str(report), "--plot", str(plot), command="retrieve")
    assert ran.returncode == 0, ran.stderr
    assert max(map(len, ran.stdout.splitlines()[1:])) <= 100
    assert "left out: scan, " in ran.stdout
    assert "--scan-budget 0" in ran.stdout
    assert "a trial, not to be quoted" in ran.stdout
    results = json.loads(report.read_text())
    for engine in ("hnsw", "scan", "exact"):
        for kind in ("interests", "random"):
            for point in results["engines"][engine][kind]:
                assert 0 <= point["recall_at_10"] <= 1
                assert set(point["users_per_s"]) == {"1", "8", "32"}
                assert all(speed > 0 for speed in point["users_per_s"].values())
    assert all(point["recall_at_10"] == 1 for point in results["engines"]["exact"]["random"])
    compared = results["user_vectors"]
    assert compared["best_to_hnsw"] == compared["interests"]["best_to_hnsw"] > 0
    for wanted, kinds in (("interests", {"interests"}), ("both", {"interests", "random"})):
        assert compared[wanted]["hnsw"]["engine"] == "hnsw"
        assert compared[wanted]["chosen"]["engine"] in {"hnsw", "scan", "exact"}
        for of in (compared[wanted]["chosen"], compared[wanted]["hnsw"]):
            assert set(of["recall_at_10"]) == kinds
            assert min(of["recall_at_10"].values()) >= compared["recall"]
        assert len(compared[wanted]["rounds"]) == 1
    assert results["ratio_to_raw"]["no_delta"] > 0
    assert all(of["recall_at_10"] > 0.95 and of["ratio_to_unfiltered"] > 0 for of in results["filtered"].values())
    swap = results["swap_under_load"]
    assert swap["failed"] == 0
    assert swap["upserts"] >= 600
    assert swap["timeline"]["compaction_started_s"] < swap["timeline"]["swapped_s"]
    (size,) = results["scale"]["points"]
    assert size["items"] == 1000
    assert set(size["engines"]) == {"hnsw", "scan", "exact"}
    assert size["chosen"] in size["engines"]
    assert size["engines"]["scan"]["build_s"] > 0
    assert len(size["left_out"]["scan"]["parts"]) >= 2
    assert size["start_s"] > 0
    assert size["disk_mb"] > 0
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
    peers = [name for name, peer in PEERS.items() if peer.version() is not None]
    # Whether int8-fast of random weights keeps enough neighbours depends on their rounding.
    absent = results["int8_fast"].get("absent")
    fast = [] if absent else [FAST_OURS]
    assert set(results["systems"]) == {*SYSTEMS, *peers, *fast}
    assert {name for name, found in results["peers"].items() if not found["absent"]} == set(peers)
    if not cpu.has_int8_dot_product():
        assert "this CPU has no int8 dot products" in str(absent)
    elif absent:
        assert "misses the gate" in str(absent)
    assert all(rate > 0 for rates in results["systems"].values() for rate in rates.values())
    assert all(ratio > 0 for ratios in results["ratios"].values() for ratio in ratios.values())
    agreement = {name: found["min_cos"] for name, found in results["agreement"].items()}
    assert agreement.pop(FAST_OURS, 1.0) > 0.98
    assert all(least > 0.9999 for least in agreement.values())
    assert set(agreement) == {*SYSTEMS[1:], *peers}
    assert all(1 <= size <= 32 for sizes in results["batch"].values() for size in sizes.values())
    assert {len(figures) for figures in results["rounds"].values()} == {2}
    assert results["texts"]["descriptions"]["count"] == 100
    assert results["hardware"]["cpu_flags"]
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
        assert store["record"]["batched_per_s"] > store["record"]["single_per_s"] > 0
        assert 0 < store["erase"]["p50_ms"] <= store["erase"]["p99_ms"]
    # 300 users of 5; 20 erased of 50, 100 of 20, 100 of 50, 25 of 500.
    assert results["interactions_before"] == 300 * 5 + 20 * 50 + 100 * 20 + 100 * 50 + 25 * 500
    least, most = results["spread"]["recommend_by_user.50.ratio_to_caller_history"]
    assert least <= results["recommend_by_user"]["50"]["ratio_to_caller_history"] <= most
    assert plot.stat().st_size > 0
    # Nothing of the user's own store, nothing left in the database, nothing left aside.
    assert {path for path in home.rglob("*") if path.name.startswith(("interactions.db", "pseudonym.key"))} == before
    assert not list(home.glob("bench-users-*"))
    with pytest.raises(InteractionError, match="not a interactions store"):
        InteractionStore(url)
