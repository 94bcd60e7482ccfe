"""The folder that tritonserver runs from: the code of each model begins with the import paths of the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from recserve_server_ext.config.server import ModelSettings, ServeSettings
from recserve_server_ext.triton.model_config import all_models
from recserve_server_ext.triton.repository import MODELS, write_model
from support.versions import loaded_encoder


@pytest.fixture
def written(tmp_path: Path) -> list[Path]:
    """The code of every model that has a process, as it was written."""
    models = all_models(ModelSettings(str(tmp_path), "", "", ServeSettings(), "", "", ""), loaded_encoder("1" * 64))
    for model in models:
        write_model(tmp_path, model)
    return [tmp_path / MODELS / model.name / "1" / "model.py" for model in models if model.has_process]


def paths_after(code: str, folder: Path) -> list[str]:
    """The import paths of an isolated interpreter, as the stubs have it, once it has run this."""
    script = folder / "begin.py"
    script.write_text(f"{code}\nimport json\nprint(json.dumps(sys.path))\n")
    ran = subprocess.run([sys.executable, "-I", str(script)], capture_output=True, text=True, check=True, timeout=60)
    found: list[str] = json.loads(ran.stdout)
    return found


def test_folders_of_the_launcher_come_in_its_order_before_what_a_stub_has_besides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    library = sysconfig.get_path("stdlib")
    site, ahead, behind = sysconfig.get_path("purelib"), str(tmp_path / "ahead"), str(tmp_path / "behind")
    zipped = str(Path(library).parent / f"python{sys.version_info.major}{sys.version_info.minor}.zip")
    here = sys.path
    given = [ahead, zipped, library, f"{library}/lib-dynload", "", behind, site]
    monkeypatch.setattr(sys, "path", [*given, *(path for path in here if path not in given)])
    written: list[Path] = request.getfixturevalue("written")
    monkeypatch.setattr(sys, "path", here)
    headers = {code.read_text().partition('"""')[0] for code in written}
    assert len(written) >= 6
    assert len(headers) == 1
    found = paths_after(headers.pop(), tmp_path)
    assert found[0] == ahead
    assert found.index(library) < found.index(f"{library}/lib-dynload") < found.index(behind) < found.index(site)
    assert len(found) == len(set(found))


def test_what_pythonpath_names_goes_first(tmp_path: Path) -> None:
    """A launcher that imports a room from elsewhere than the installed ones has models that import it from there."""
    write = (
        "import sys; from pathlib import Path; from recserve_server_ext.triton import repository; "
        "code = Path(sys.argv[1]); code.write_text(''); repository._hand_over_paths(code)"
    )
    code, rooms = tmp_path / "model.py", [str(tmp_path / name) for name in ("one", "other")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*rooms, *filter(None, sys.path)])}
    subprocess.run([sys.executable, "-P", "-c", write, str(code)], env=environment, check=True, timeout=60)
    assert paths_after(code.read_text(), tmp_path)[:2] == rooms
