"""An export that cannot be: full disk, no permission, a kill in the middle, two at once; nothing half-made stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_export.encoder.lock import only_export
from recserve_export.encoder.source.folder import read_source
from recserve_export.errors import ExportError
from recserve_server_ext.common.files import LOCK
from recserve_server_ext.encoder.manifest import read_manifest

#: Runs the command until the graph is written into the folder aside, says so, and waits to be killed.
_STOPS = """
import sys, time
from recserve_export.encoder import make as encoder_make
from recserve_export.cli.encoder import app

def stop(self, folder, precision):
    print("aside", folder, flush=True)
    time.sleep(600)

encoder_make.Maker._load = stop
app(sys.argv[1:])
"""


def export(source: Path, home: Path) -> tuple[int, str]:
    found = CliRunner().invoke(app, ["encoder", str(source), "--home", str(home), "--precision", "fp32"])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found.exit_code, " ".join(found.stderr.split())


def left(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "encoder").iterdir() if path.name != LOCK)


@pytest.fixture
def stopped(source: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """An export into `tmp_path`/home that has written its graph and goes no further."""
    command = [sys.executable, "-c", _STOPS, "encoder", str(source), "--home", str(tmp_path / "home")]
    with subprocess.Popen([*command, "--precision", "fp32"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("aside")
        yield process
        process.kill()


def test_a_killed_export_leaves_nothing_to_the_next(
    stopped: subprocess.Popen[str], source: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    assert [name[:6] for name in left(home)] == [".fp32."]
    stopped.send_signal(signal.SIGKILL)
    stopped.wait()
    code, said = export(source, home)
    assert code == 0, said
    assert left(home) == ["fp32", "versions"]
    assert len(list((home / "encoder" / "versions").iterdir())) == 1
    read_manifest(home / "encoder" / "fp32")


def test_a_second_export_says_who_is_at_work(stopped: subprocess.Popen[str], source: Path, tmp_path: Path) -> None:
    code, said = export(source, tmp_path / "home")
    assert code == 1
    assert f"process {stopped.pid} is exporting into {tmp_path / 'home' / 'encoder'}; try again" in said
    assert [name[:6] for name in left(tmp_path / "home")] == [".fp32."]  # what the first one is making stays


def test_an_encoder_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".int8-fast.0123.old").mkdir()
    (tmp_path / ".int8-fast.0123.old" / "file").touch()
    (tmp_path / "fp32").mkdir()
    (tmp_path / ".fp32.0123.old").mkdir()
    (tmp_path / ".encoder.json.0123.tmp").touch()
    with only_export(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, "fp32", "int8-fast"}
        with pytest.raises(ExportError, match=f"process {os.getpid()} is exporting"), only_export(tmp_path):
            pass
    with only_export(tmp_path):
        assert (tmp_path / "int8-fast" / "file").is_file()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size at a folder; skips the test where none can be mounted."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or mount is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount a small file system, and not on every machine")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# The graph does not fit, or all but the report does not.
@pytest.mark.kills
@pytest.mark.parametrize("size", ["200k", "520k"])
def test_full_disk(size: str, source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", size) as home:
        code, said = export(source, home)
        assert code == 1
        assert "cannot write the encoder to" in said
        assert "No space left on device" in said
        assert said.count("error:") == 1
        assert left(home) == []


@pytest.mark.kills
def test_full_disk_behind_a_complete_encoder(source: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "small", "2m") as home:
        assert export(source, home)[0] == 0
        targets = home / "encoder" / "fp32" / "triton"
        shutil.rmtree(targets / "embedded")
        with (home / "full").open("wb", buffering=0) as full, suppress(OSError):
            while full.write(bytes(4096)):
                pass
        code, said = export(source, home)
        assert code == 1
        assert "fp32 is complete, but its Triton model folder for embedded cannot be written: No space left" in said
        assert list(targets.iterdir()) == []
        read_manifest(home / "encoder" / "fp32")
        (home / "full").unlink()
        code, said = export(source, home)
        assert code == 0, said
        assert (targets / "embedded" / "encoder" / "config.pbtxt").is_file()


def test_no_permission(source: Path) -> None:
    read_source(source)  # imports what it needs: another user may not be allowed to read this environment
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        copied, home = shutil.copytree(source, folder / "source"), folder / "home"
        home.mkdir(mode=0o555)
        for path in copied.rglob("*"):
            path.chmod(0o755)
        user = os.geteuid()
        if user == 0:  # root may write anywhere
            os.seteuid(65534)
        try:
            code, said = export(copied, home)
        finally:
            os.seteuid(user)
        assert code == 1
        assert f"cannot write the encoder to {home / 'encoder'}: Permission denied" in said
        assert list(home.iterdir()) == []
