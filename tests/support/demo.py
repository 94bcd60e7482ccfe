"""`recserve demo` in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

#: A demo that takes longer hangs; with company on two cores it takes a quarter of an hour.
HANGS_S = 1800


class Demo(NamedTuple):
    """What a demo made from nothing.

    Attributes:
        home: Its home.
        result: Its results.
        printed: What it printed.
    """

    home: Path
    result: dict[str, Any]
    printed: str


def run_demo(home: Path, result: Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "recserve_client.cli.main", "demo", "--home", str(home), "--json", str(result)]
    return subprocess.run(program, capture_output=True, text=True, timeout=HANGS_S, check=False)


def demo_from_nothing(folder: Path) -> Demo:
    """Run it in an empty folder."""
    done = run_demo(folder / "home", folder / "result.json")
    assert done.returncode == 0, done.stderr[-2000:]
    return Demo(folder / "home", json.loads((folder / "result.json").read_text()), done.stdout)
