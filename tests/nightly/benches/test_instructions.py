"""Instructions of the pipeline for a user, counted by valgrind, against the recorded ones: no clock, so no noise."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from support.counted import BATCH, KINDS

RECORDED = Path(__file__).with_name("instructions.json")
BATCHES = 100
#: Paths of folders, ids and the environment are of other lengths elsewhere.
NOISE = 0.03
#: hnswlib is compiled for the CPU at hand, maybe with instructions that valgrind does not know. Nothing here asks it.
_COUNTED = """
import sys, types
sys.modules["hnswlib"] = types.ModuleType("hnswlib")
from support.counted import answer_batches
answer_batches(sys.argv[1], int(sys.argv[2]))
"""
#: Changes of these versions change what is counted.
_VERSIONS = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", "numpy": version("numpy")}


def instructions(kind: str, batches: int) -> int:
    """Instructions of a process that answers so many batches."""
    environment = os.environ | {
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        # Its thread would count by the clock.
        "JE_ARROW_MALLOC_CONF": "background_thread:false",
        # The same kernels on every CPU, and none that valgrind does not know.
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    # Where things lie in memory decides how sums begin and how dictionaries collide, so they lie the same each time.
    counting = [
        "setarch",
        "--addr-no-randomize",
        "valgrind",
        "--tool=cachegrind",
        "--cache-sim=no",
        "--cachegrind-out-file=/dev/null",
    ]
    done = subprocess.run(
        [*counting, sys.executable, "-c", _COUNTED, kind, str(batches)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"I +refs: +([\d,]+)", done.stderr)
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.skipif(
    shutil.which("valgrind") is None or shutil.which("setarch") is None, reason="valgrind or setarch is not installed"
)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_takes_no_more_than_recorded(kind: str) -> None:
    recorded: dict[str, Any] = json.loads(RECORDED.read_text())
    if recorded["versions"] != _VERSIONS:
        pytest.skip(f"recorded with {recorded['versions']}, here are {_VERSIONS}")
    of_user = (instructions(kind, BATCHES) - instructions(kind, 0)) / (BATCHES * BATCH)
    print(f"{kind}: {of_user:,.0f} instructions a user, {recorded['of_user'][kind]:,} recorded")
    assert abs(of_user / recorded["of_user"][kind] - 1) < NOISE, f"record it in {RECORDED.name} if that is meant"
