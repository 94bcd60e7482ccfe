"""The folder that tritonserver runs from: model repository, backend with the right stub."""

from __future__ import annotations

import shutil
from pathlib import Path

from recserve_server_ext.errors import LaunchError
from recserve_server_ext.model_config import Model, PythonModel, config_text
from recserve_server_ext.triton_binary import TritonBinary

MODELS = "models"
BACKENDS = "backends"


def model_sources() -> Path:
    """The folder `model_repository`: inside an installed package, or beside this room in a checkout.

    Raises:
        LaunchError: It is in neither place.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "model_repository", here.parents[1] / "model_repository"):
        if (folder / "recommend" / "1" / "model.py").is_file():
            return folder
    raise LaunchError(f"model_repository is not beside {here}: the installation is incomplete; install recserve again")


def assemble(folder: Path, models: list[Model], binary: TritonBinary) -> None:
    """Write `folder`/models and `folder`/backends anew.

    Raises:
        LaunchError: The folder cannot be written.
    """
    sources = model_sources()
    try:
        for part in (MODELS, BACKENDS):
            shutil.rmtree(folder / part, ignore_errors=True)
        for model in models:
            target = folder / MODELS / model.name
            (target / "1").mkdir(parents=True)
            if isinstance(model, PythonModel):
                shutil.copy(sources / model.name / "1" / "model.py", target / "1" / "model.py")
            (target / "config.pbtxt").write_text(config_text(model), encoding="utf-8")
        if binary.backends is not None and binary.stub is not None:
            shutil.copytree(binary.backends, folder / BACKENDS, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(binary.stub, folder / BACKENDS / "python" / binary.stub.name)
    except OSError as error:
        raise LaunchError(f"cannot write {folder}: {error.strerror or error}") from error
