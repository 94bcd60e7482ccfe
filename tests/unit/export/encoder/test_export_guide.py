"""The complete example of docs/how-to/export-an-encoder.md: its script runs, and its model is exported and verified."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from recserve_export.cli.encoder import app
from recserve_server_ext.encoder.manifest import Prompts, read_manifest

GUIDE = Path(__file__).parents[4] / "docs" / "how-to" / "export-an-encoder.md"


def test_another_model_from_beginning_to_end(tmp_path: Path) -> None:
    section = GUIDE.read_text(encoding="utf-8").partition("## Another model")[2].partition("\n## ")[0]
    scripts = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(scripts) == 1
    subprocess.run([sys.executable, "-c", scripts[0]], cwd=tmp_path, check=True)
    words = [str(tmp_path / "my-model"), "--texts", str(tmp_path / "texts.txt"), "--home", str(tmp_path / "my-home")]
    found = CliRunner().invoke(app, ["encoder", *words, "--precision", "fp32"])  # auto, as in the guide, takes longer
    assert found.exit_code == 0, found.output
    folder = tmp_path / "my-home" / "encoder" / "fp32"
    manifest = read_manifest(folder)
    assert (manifest.name, manifest.pooling, manifest.dim, manifest.max_tokens) == ("my-model", "cls", 64, 64)
    assert manifest.prompts == Prompts(query="query: ", passage="passage: ")
    found = CliRunner().invoke(app, ["verify", str(folder)])
    assert found.exit_code == 0, found.output
    assert "20 texts: least cosine" in found.stdout
