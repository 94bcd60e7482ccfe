"""`recserve bench check` on the real weights against the run recorded for this kind of CPU: no ratio got worse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recserve_benchmarks.harness.report import cautions
from recserve_server_ext.common.cpu import int8_arithmetic
from support.demo import demo_from_nothing

pytestmark = [pytest.mark.triton, pytest.mark.timeout(1500)]


def test_no_ratio_of_serving_got_worse(tmp_path: Path) -> None:
    recorded = Path(__file__).with_name(f"check-{int8_arithmetic()}-{os.cpu_count()}.json")
    if not recorded.exists():
        pytest.skip(f"no run is recorded for this kind of CPU: {recorded.name}")
    home, report = demo_from_nothing(tmp_path / "demo").home, tmp_path / "check.json"
    check = [sys.executable, "-m", "recserve_client.cli.main", "bench", "check", "--home", str(home)]
    options = ["--baseline", str(recorded), "--json", str(report)]
    ran = subprocess.run([*check, *options], capture_output=True, text=True, timeout=900, check=False)
    print(ran.stdout)
    company = [line for line in cautions(json.loads(report.read_text())) if "other programs" in line]
    if company:
        pytest.skip(company[0])
    assert ran.returncode == 0, ran.stdout + ran.stderr
