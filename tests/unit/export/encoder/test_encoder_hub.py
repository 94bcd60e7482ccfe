"""Names on the hub, against a hub in this process: what is fetched, what is kept, and every way in which it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recserve_export.encoder.source.folder import SourceOptions
from recserve_export.encoder.source.hub import resolve
from recserve_server_ext.encoder.manifest import read_manifest
from support.fake_hub import FakeHub, fake_hub

NAME = "owner/tiny"
#: The hub's names of files that are never asked for, whatever is allowed.
OTHER = ("tf_model.h5", "onnx/model.onnx", "README.md")
NOWHERE = "http://127.0.0.1:1"

#: What the command does with a name, without the export behind it, which takes seconds.
RESOLVE = """
import typer
from recserve_export.cli.common import explained
from recserve_export.encoder.source.hub import resolve
from recserve_export.encoder.source.folder import SourceOptions, read_source
def main(name: str, allowed: str = typer.Argument("")) -> None:
    with explained():
        options = SourceOptions(allow_pickle=allowed == "pickle", trust_remote_code=allowed == "code")
        found = resolve(name, options)
        print(read_source(found.folder, options, name=found.name).name)
typer.run(main)
"""


@pytest.fixture
def hub(source: Path, tmp_path: Path) -> Iterator[FakeHub]:
    """A hub with the tiny model, its weights also pickled, and code."""
    files = shutil.copytree(source, tmp_path / "files")
    (files / "onnx").mkdir()
    for name in (*OTHER, "pytorch_model.bin", "modeling_own.py"):
        (files / name).write_bytes(b"not to be read")
    with fake_hub(files) as found:
        yield found


def run(tmp_path: Path, endpoint: str, command: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, since huggingface_hub reads its settings at import."""
    settings = {"HF_HOME": str(tmp_path / "hub"), "HF_ENDPOINT": endpoint, "NO_COLOR": "1", "HF_TOKEN": "", **more}
    return subprocess.run(
        [sys.executable, *command], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )


def fetch(tmp_path: Path, endpoint: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    return run(tmp_path, endpoint, ["-c", RESOLVE, NAME, *words], **more)


def said(found: subprocess.CompletedProcess[str]) -> str:
    """The error in one line, after a failure; what the libraries say besides is no part of it."""
    assert found.returncode == 1, found.stdout
    assert "Traceback" not in found.stderr
    return " ".join(found.stderr[found.stderr.index("error:") :].split())


def test_a_name_is_fetched_exported_and_kept(hub: FakeHub, tmp_path: Path) -> None:
    home, texts = tmp_path / "home", tmp_path / "texts.txt"
    texts.write_text("\n".join(f"film {number} about robots" for number in range(1000)))
    command = ["-m", "recserve_client.cli.main", "export", "encoder", NAME, "--home", str(home)]
    command += ["--precision", "fp32", "--texts", str(texts)]
    found = run(tmp_path, hub.address, command)
    assert found.returncode == 0, found.stderr
    manifest = read_manifest(home / "encoder" / "fp32")
    assert (manifest.name, manifest.pooling, manifest.max_tokens) == (NAME, "mean", 64)
    assert {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"} <= hub.downloaded()
    assert not {*OTHER, "pytorch_model.bin", "modeling_own.py"} & hub.downloaded()

    hub.requests.clear()
    again = run(tmp_path, hub.address, command, HF_HUB_OFFLINE="1")
    assert (again.returncode, hub.requests) == (0, [])
    assert "up to date" in again.stderr
    # Without the setting, and without a hub, the cache is enough as well; with a hub nothing is fetched twice.
    assert fetch(tmp_path, NOWHERE).stdout == f"{NAME}\n"
    assert fetch(tmp_path, hub.address).stdout == f"{NAME}\n"
    assert hub.downloaded() == set()


@pytest.mark.parametrize(("word", "file"), [("pickle", "pytorch_model.bin"), ("code", "modeling_own.py")])
def test_pickles_and_code_are_fetched_only_by_leave(word: str, file: str, hub: FakeHub, tmp_path: Path) -> None:
    assert fetch(tmp_path, hub.address, word).returncode == 0
    assert {"pytorch_model.bin", "modeling_own.py"} & hub.downloaded() == {file}


def test_a_model_with_pickles_only(hub: FakeHub, tmp_path: Path) -> None:
    (hub.folder / "model.safetensors").unlink()
    assert "has no weights: model.safetensors is missing" in said(fetch(tmp_path, hub.address))
    assert "pytorch_model.bin" not in hub.downloaded()


@pytest.mark.parametrize(
    ("behaves", "message"),
    [
        ("missing", "owner/tiny is no folder here, and the hub has no such model (or it is private)"),
        ("gated", "owner/tiny asks for an agreement on the hub; log in with: hf auth login"),
    ],
)
def test_a_refusal(behaves: str, message: str, hub: FakeHub, tmp_path: Path) -> None:
    hub.behaves = behaves  # type: ignore[assignment]
    command = ["-m", "recserve_client.cli.main", "export", "encoder", NAME, "--home", str(tmp_path / "home")]
    assert message in said(run(tmp_path, hub.address, command))
    assert not (tmp_path / "home").exists()
    assert not list((tmp_path / "hub").rglob("snapshots/*/*"))


@pytest.mark.parametrize("more", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_a_hub_out_of_reach(more: dict[str, str], tmp_path: Path) -> None:
    command = ["-m", "recserve_client.cli.main", "export", "encoder", NAME, "--home", str(tmp_path / "home")]
    message = said(run(tmp_path, NOWHERE, command, **more))
    assert "owner/tiny is no folder here, not in the cache" in message
    assert "the hub cannot be reached (or HF_HUB_OFFLINE is set)" in message
    assert not (tmp_path / "home").exists()
    assert not list((tmp_path / "hub").rglob("models--*"))


def test_a_download_that_is_cut_off(hub: FakeHub, tmp_path: Path) -> None:
    """It is never taken for a whole one, and the next one completes it."""
    hub.behaves = "cut"
    message = said(fetch(tmp_path, hub.address))
    assert "owner/tiny is no folder here, and it cannot be fetched from the hub: " in message
    assert not list((tmp_path / "hub").rglob("snapshots/*/model.safetensors"))
    for endpoint, more in ((NOWHERE, {}), (hub.address, {"HF_HUB_OFFLINE": "1"})):
        message = said(fetch(tmp_path, endpoint, **more))
        assert "a download of owner/tiny was broken off and cannot be completed now" in message
    hub.behaves = "well"
    assert fetch(tmp_path, hub.address).stdout == f"{NAME}\n"
    assert fetch(tmp_path, NOWHERE).stdout == f"{NAME}\n"


def test_a_cache_that_another_program_filled(hub: FakeHub, tmp_path: Path) -> None:
    code = f"from huggingface_hub import snapshot_download\nsnapshot_download({NAME!r})"
    assert run(tmp_path, hub.address, ["-c", code]).returncode == 0
    assert fetch(tmp_path, hub.address, HF_HUB_OFFLINE="1").stdout == f"{NAME}\n"


@pytest.mark.parametrize("source", ["none", "./owner/model", "/owner/model", "a/b/c", "owner/"])
def test_other_names_are_paths(source: str) -> None:
    assert resolve(source, SourceOptions()).folder == Path(source)
