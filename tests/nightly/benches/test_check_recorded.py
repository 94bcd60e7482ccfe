"""`recserve bench check` on the real weights against the run recorded for this kind of CPU: no ratio got much worse."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recserve_benchmarks.check.bench import changes, read_baseline
from recserve_benchmarks.harness.report import cautions
from recserve_server_ext.common.cpu import int8_arithmetic
from support.demo import demo_from_nothing

#: About what medians of two runs of the same code differ by at most: docs/how-to/load-test.md.
MUCH = math.log(1.4)
pytestmark = [pytest.mark.triton, pytest.mark.timeout(1500)]


def test_no_ratio_of_serving_got_worse(tmp_path: Path) -> None:
    recorded = Path(__file__).with_name(f"check-{int8_arithmetic()}-{os.cpu_count()}.json")
    if not recorded.exists():
        pytest.skip(f"no run is recorded for this kind of CPU: {recorded.name}")
    home, report = demo_from_nothing(tmp_path).home, tmp_path / "check.json"
    check = [sys.executable, "-m", "recserve_client.cli.main", "bench", "check", "--home", str(home)]
    options = ["--baseline", str(recorded), "--json", str(report)]
    ran = subprocess.run([*check, *options], capture_output=True, text=True, timeout=900, check=False)
    print(ran.stdout)
    assert report.exists(), ran.stderr
    results = json.loads(report.read_text())
    company = [line for line in cautions(results) if "other programs" in line]
    if company:
        pytest.skip(company[0])
    # CPUs of one kind differ in their caches: the command names what moved, this is for what was lost.
    found = changes(read_baseline(recorded, results), results)
    assert not {name: of for name, of in found.items() if of.is_worse and abs(math.log(of.now / of.before)) > MUCH}
