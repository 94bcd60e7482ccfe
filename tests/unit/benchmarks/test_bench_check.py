"""Which ratios moved since a recorded run, on made-up rounds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_benchmarks.check.bench import FIGURES, changes, read_baseline
from recserve_benchmarks.errors import BenchmarkError

SETUP = {"int8_arithmetic": "vnni", "cores": 2, "items": 17_000, "encoder": {"precision": "int8"}}


def rounds(factor: float, *, noise: float = 0.01, seed: int = 0, count: int = 9) -> dict[str, Any]:
    """Rounds whose figures are this factor of the same ones, with noise."""
    random = np.random.default_rng(seed)
    values = {name: (factor * 0.8 * random.lognormal(0, noise, count)).tolist() for name in FIGURES}
    return {"rounds": values, "setup": SETUP}


@pytest.mark.parametrize(
    ("factor", "worse"),
    [
        (1.0, set()),
        (1.02, set()),  # less than is worth a word
        (1.2, {name for name, more in FIGURES.items() if not more}),
        (0.8, {name for name, more in FIGURES.items() if more}),
    ],
)
def test_what_got_worse_is_named(factor: float, worse: set[str]) -> None:
    found = changes(rounds(1.0), rounds(factor, seed=1))
    assert {name for name, change in found.items() if change.is_worse} == worse
    assert all(change.low <= change.now / change.before <= change.high for change in found.values())


def test_noise_is_no_change() -> None:
    found = changes(rounds(1.0, noise=0.3, seed=2), rounds(1.0, noise=0.3, seed=3))
    assert [name for name, change in found.items() if change.is_worse] == []


def test_the_interval_covers_the_true_ratio_nine_times_in_ten() -> None:
    """An interval of 95% over nine rounds is a little too narrow; less than 85% would be of no use."""
    covered = [
        change.low <= 1.1 <= change.high
        for seed in range(40)
        for change in changes(rounds(1.0, noise=0.1, seed=seed), rounds(1.1, noise=0.1, seed=1000 + seed)).values()
    ]
    assert np.mean(covered) > 0.85


@pytest.mark.parametrize("name", ["int8_arithmetic", "cores", "items", "precision"])
def test_a_run_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    path, own = tmp_path / "baseline.json", rounds(1.0)
    other = {**SETUP, name: "other"} if name != "precision" else {**SETUP, "encoder": {"precision": "fp32"}}
    path.write_text(json.dumps({**own, "setup": other}))
    with pytest.raises(BenchmarkError, match=name if name != "precision" else "an encoder of fp32"):
        read_baseline(path, own)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"setup": {}, "rounds": {}}', json.dumps({"setup": SETUP})])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "baseline.json"
    path.write_text(content)
    with pytest.raises(BenchmarkError, match="is no file of"):
        read_baseline(path, rounds(1.0))
    with pytest.raises(BenchmarkError, match="is no file of"):
        read_baseline(tmp_path / "missing.json", rounds(1.0))


def test_the_same_kind_of_run_is_read(tmp_path: Path) -> None:
    path, own = tmp_path / "baseline.json", rounds(1.0)
    path.write_text(json.dumps(own))
    assert read_baseline(path, own)["rounds"] == own["rounds"]
