"""`recserve catalogue encode`: a row out for each row in, also when the process is killed meanwhile."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recserve_export.bulk_encoding.job import JOB
from recserve_export.cli.catalogue import commands as cli_catalogue
from support.encode_job import check, command, read, words, write_input


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_input(tmp_path / "in")


def run(home: Path, source: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command in this process; a traceback fails the test."""
    told = words(home, source, output, *more)
    found = CliRunner().invoke(cli_catalogue.app, told)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return subprocess.CompletedProcess(told, found.exit_code, found.stdout, found.stderr)


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
