"""`recserve catalogue encode` on Ray: the same rows as here, also when an actor is killed meanwhile."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from support.encode_job import check, command, read, write_input


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in")


def test_ray_gives_the_same_with_an_actor_killed_in_the_middle(tiny_home: Path, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    output, killed = tmp_path / "ray", threading.Event()
    process = subprocess.Popen(
        command(tiny_home, source, output, "--engine", "ray"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )

    def kill_one() -> None:
        while not killed.is_set() and process.poll() is None:
            if 3 <= len(list(output.glob("*.parquet"))) < 50:
                for actor in actors():
                    actor.kill()
                    killed.set()
                    return
            time.sleep(0.002)

    watcher = threading.Thread(target=kill_one)
    watcher.start()
    out, err = process.communicate(timeout=300)
    watcher.join()
    assert process.returncode == 0, err
    assert "3,000 rows in 60 files" in out
    assert killed.is_set()
    found = read(output)
    check(found, tiny_home)
    ran = subprocess.run(command(tiny_home, source, tmp_path / "local"), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    here = read(tmp_path / "local")
    assert [found[name][1] for name in here] == [error for _, error in here.values()]
    for name, (vector, _) in here.items():
        if vector is not None:
            np.testing.assert_allclose(found[name][0], vector, atol=1e-5)


def actors() -> Iterator[psutil.Process]:
    """Processes of Ray's actors that encode."""
    for process in psutil.process_iter(["name", "cmdline"]):
        if any("RayEncoder" in part for part in process.info["cmdline"] or ()):
            yield process
