"""`recserve catalogue encode`: a row out for each row in, here and on Ray, also when a process is killed meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recserve_export.bulk_encoding.job import JOB
from recserve_server_ext.encoder.text_encoder import TextEncoder

GROUP = 50


def items(count: int) -> list[dict[str, Any]]:
    """Rows of which every 97th is no item."""
    rows: list[dict[str, Any]] = [
        {"sku": f"s{n}", "name": f"film number {n}", "blurb": f"about {n % 13}", "n": n} for n in range(count)
    ]
    for row in rows[96::97]:
        row["name"] = row["blurb"] = "  "
    return rows


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files of many small row groups."""
    folder = tmp_path / "in"
    folder.mkdir()
    rows = items(3000)
    for name, part in (("a", rows[:1700]), ("b", rows[1700:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{name}.parquet", row_group_size=GROUP)
    return folder


def command(home: Path, source: Path, output: Path, *more: str) -> list[str]:
    program = [sys.executable, "-m", "recserve_client.cli.main", "catalogue", "encode", "--home", str(home)]
    fields = ["--id-field", "sku", "--text", "title=2", "--text", "blurb", "--map", "title=name"]
    return [*program, "--input", str(source), "--output", str(output), *fields, *more]


def run(home: Path, source: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(home, source, output, *more), capture_output=True, text=True, timeout=300, check=False
    )


def read(output: Path) -> dict[str, tuple[Any, str | None]]:
    """Vector and error by id; every row once."""
    rows = [row for file in sorted(output.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    found = {row["id"]: (row["vector"], row["error"]) for row in rows}
    assert len(found) == len(rows)
    return found


def check(found: dict[str, tuple[Any, str | None]], home: Path) -> None:
    """Every item of the source is there, with the vector that this process gives."""
    encoder = TextEncoder(home / "encoder" / "fp32")
    rows = items(3000)
    assert set(found) == {row["sku"] for row in rows}
    for row in rows[::211]:
        title, blurb = encoder.encode([row["name"], row["blurb"]])
        expected = (2 * title + blurb) / np.linalg.norm(2 * title + blurb)
        # fp32 runs of other sizes: 1e-5, as for every encoder here.
        np.testing.assert_allclose(found[row["sku"]][0], expected, atol=1e-5)
    refused = {name for name, (vector, error) in found.items() if error is not None}
    assert refused == {row["sku"] for row in rows[96::97]}
    assert all((found[name][0] is None) == (name in refused) for name in found)
    assert "empty_text" in str(found["s96"][1])


def test_a_killed_job_goes_on_where_it_stopped(tiny_home: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(5):  # a job may have ended before this process sees its third file
        process = subprocess.Popen(
            command(tiny_home, source, output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 120
        while len(list(output.glob("*.parquet"))) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
        before = {file: file.stat().st_mtime_ns for file in output.glob("*.parquet")}
        if len(before) < 60:
            break
        shutil.rmtree(output)
    assert 0 < len(before) < 60
    ran = run(tiny_home, source, output)
    assert (ran.returncode, "3,000 rows in 60 files" in ran.stdout) == (0, True), ran.stderr
    assert "30 without a vector" in ran.stdout
    assert {file: file.stat().st_mtime_ns for file in before} == before
    check(read(output), tiny_home)
    assert not list(output.glob(".*.tmp"))


@pytest.mark.slow
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
    ran = run(tiny_home, source, tmp_path / "local")
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


def test_the_output_of_another_job_is_not_mixed_in(tiny_home: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run(tiny_home, source, output).returncode == 0
    other = run(tiny_home, source, output, "--text", "n2", "--map", "n2=sku")
    assert other.returncode == 1
    assert "of another encoder or mapping" in " ".join(other.stderr.split())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    assert "not empty" in run(tiny_home, source, tmp_path / "full").stderr
    assert not (tmp_path / "full" / JOB).exists()


def test_a_damaged_file_of_the_output_is_named_and_done_anew(tiny_home: Path, source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(tiny_home, source, output)
    before = read(output)
    file = min(output.glob("*.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    ran = run(tiny_home, source, output)
    said = "".join(ran.stderr.split())
    assert (ran.returncode, "Traceback" in ran.stderr) == (1, False)
    assert file.name in said
    assert "removeit" in said
    file.unlink()
    assert run(tiny_home, source, output).returncode == 0
    assert read(output) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.parquet", "cannot be read as Parquet"),
        ("text.parquet", "cannot be read as Parquet"),
        ("", "no Parquet"),
    ],
)
def test_what_is_no_parquet_is_named(tiny_home: Path, tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "text.parquet").write_text("no parquet")
    place = tmp_path / name if name else tmp_path / "empty"
    place.parent.mkdir(exist_ok=True)
    if not name:
        place.mkdir()
    ran = run(tiny_home, place, tmp_path / "out")
    assert ran.returncode == 1
    assert said in " ".join(ran.stderr.split())
    assert "Traceback" not in ran.stderr
