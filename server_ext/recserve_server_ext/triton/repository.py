"""The folder that tritonserver runs from: model repository, and backends with the right Python stub."""

from __future__ import annotations

import py_compile
import shutil
import sys
import sysconfig
from pathlib import Path

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.config.server import MODEL_SETTINGS
from recserve_server_ext.services.refusals import FOLDER as REFUSALS
from recserve_server_ext.triton.binary import TritonBinary
from recserve_server_ext.triton.encoder_config import write_warmup
from recserve_server_ext.triton.model_config import Model, config_text

MODELS = "models"
BACKENDS = "backends"
LIBRARIES = "lib"
#: Version of this Python and of the stubs (see `recserve_server_ext.triton.binary`), as in the name of its zip file.
_VERSION = sysconfig.get_config_var("py_version_nodot")
#: First lines of the code of every model. What is imported stays: the garbage collector would look in vain, for a tenth
#: of the time, until `recserve_server_ext.triton.backend.settle_memory` turns it on.
_PATHS = """\
import gc, os, sys
gc.disable()
_library = os.path.dirname(os.__file__)
_own = [path for path in sys.path if path in (_library, f"{{_library}}/lib-dynload") or path.endswith("/{zip}")]
sys.path[:] = dict.fromkeys([*{before!r}, *_own, *{after!r}, *sys.path])

"""


def model_sources() -> Path:
    """The folder `model_repository` in an installed package or in a checkout; raises LaunchError without it."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "model_repository", package.parents[1] / "model_repository"):
        if (folder / "recommend" / "1" / "model.py").is_file():
            return folder
    raise LaunchError(
        f"model_repository is not beside {package}: the installation is incomplete; install recserve again"
    )


def assemble(folder: Path, models: list[Model], binary: TritonBinary, backend: Path | None = None) -> None:
    """Write `folder`/models anew, and for a server that needs them backends and lib; raises LaunchError.

    What an earlier server refused is removed.
    """
    try:
        for part in (MODELS, BACKENDS, LIBRARIES, REFUSALS):
            shutil.rmtree(folder / part, ignore_errors=True)
        (folder / MODELS).mkdir(parents=True)
        for model in models:
            write_model(folder, model)
        if binary.backends is not None and binary.stub is not None:
            # With its compiled Python, which each stub would compile anew.
            shutil.copytree(binary.backends, folder / BACKENDS)
            shutil.copy(binary.stub, folder / BACKENDS / "python" / binary.stub.name)
            _link_libpython(folder / LIBRARIES)
            if backend is not None:
                _link_backend(folder, backend, binary)
    except OSError as error:
        raise LaunchError(f"cannot write {folder}: {error.strerror or error}") from error


def write_model(folder: Path, model: Model) -> None:
    """Write one model into `folder`/models, or replace its configuration.

    Raises:
        LaunchError: `model_repository` is missing.
        OSError: The folder cannot be written.
    """
    target = folder / MODELS / model.name
    (target / "1").mkdir(parents=True, exist_ok=True)
    if model.code:
        code = target / "1" / "model.py"
        shutil.copy(model_sources() / model.code / "1" / "model.py", code)
        _hand_over_paths(code)
        _compile(code)
    if model.settings:
        own = target / "1" / MODEL_SETTINGS
        own.touch(mode=0o600)
        own.write_text(model.settings, encoding="utf-8")
    if model.exported is not None:
        for file in (model.exported / "1").iterdir():
            (target / "1" / file.name).symlink_to(file.resolve())
    if model.copied is not None:
        shutil.copy(model.copied, target / "1" / model.copied.name)
    if model.warmup_tokens:
        write_warmup(target, model.warmup_tokens)
    (target / "config.pbtxt").write_text(config_text(model), encoding="utf-8")


def _compile(code: Path) -> None:
    """Compile the code of a model.

    A stub that compiles it itself writes into the model's folder. Triton then takes the model for a changed one, and
    loads it again together with the next ensemble that leads to it.
    """
    compiled = code.parent / "__pycache__" / f"{code.stem}.{sys.implementation.cache_tag}.pyc"
    py_compile.compile(str(code), cfile=str(compiled), doraise=True)


def _hand_over_paths(code: Path) -> None:
    """Make a model import what this process imports, from the same folders in the same order.

    A stub may run an isolated interpreter, which ignores PYTHONPATH and the user's site-packages. It imports `model.py`
    before anything else, so the paths stand there. The stub's own standard library takes the place of ours: it fits the
    libpython that the stub is linked to.
    """
    library = Path(sysconfig.get_path("stdlib"))
    own = {str(library), str(library / "lib-dynload"), str(library.parent / f"python{_VERSION}.zip")}
    first = min((place for place, path in enumerate(sys.path) if path in own), default=0)
    before, after = (
        [path for path in part if path and path not in own] for part in (sys.path[:first], sys.path[first:])
    )
    header = _PATHS.format(before=before, after=after, zip=f"python{_VERSION}.zip")
    code.write_text(header + code.read_text(encoding="utf-8"), encoding="utf-8")


def _link_backend(folder: Path, backend: Path, binary: TritonBinary) -> None:
    """Put a backend beside Python's, and the server's library under the name that the backend is linked to.

    The wheel has that library under a name with a hash; the loader sees that both names are one file.
    """
    if not (folder / BACKENDS / backend.name).exists():
        (folder / BACKENDS / backend.name).symlink_to(backend, target_is_directory=True)
    if binary.libraries is not None:
        for library in binary.libraries.glob("libtritonserver-*.so*"):
            (folder / LIBRARIES / "libtritonserver.so").symlink_to(library)
            return


def _link_libpython(folder: Path) -> None:
    """Give the stubs the libpython of this interpreter, if it has one, instead of the system's."""
    name = sysconfig.get_config_var("INSTSONAME") or ""
    folder.mkdir()
    # A Python that was moved still names the folder that it was built for.
    for directory in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"):
        if directory and ".so" in name and (library := Path(directory) / name).is_file():
            (folder / name).symlink_to(library)
            return
