"""`recserve bench` where it cannot run: one line that says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-m", "recserve_client.cli.main", "bench"]


def bench(*options: str, command: str = "recommend") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PROGRAM, command, *options], capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--json", "nowhere/at/all.json"), 2, "nowhere/at/all.json"),
        (("--items", "5"), 2, "--items"),
        ((), 1, "recserve export encoder"),
    ],
)
def test_what_cannot_run_says_so_in_a_line(tmp_path: Path, options: tuple[str, ...], code: int, message: str) -> None:
    ran = bench("--home", str(tmp_path), *options)
    assert ran.returncode == code
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_encoding_that_cannot_run_says_so_in_a_line(tmp_path: Path) -> None:
    ran = bench("--home", str(tmp_path), command="encode")
    assert ran.returncode == 1
    assert "recserve export encoder" in ran.stderr
    assert "Traceback" not in ran.stderr
