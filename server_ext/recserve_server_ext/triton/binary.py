"""Finding tritonserver: at an explicit path, on PATH, or in the wheel nvidia-pytriton."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from recserve_server_ext.common.errors import LaunchError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class TritonBinary:
    """A tritonserver and what it needs to run Python models of this interpreter.

    Attributes:
        server: The executable.
        origin: How it was found: ``path``, ``PATH`` or ``wheel``.
        backends: Folder of backends, with `python` in it; `None` for the server's own.
        stub: Python stub for this interpreter, in place of the backend's; `None` to keep that.
        libraries: Folder that goes first on LD_LIBRARY_PATH, or `None`.
    """

    server: Path
    origin: str
    backends: Path | None = None
    stub: Path | None = None
    libraries: Path | None = None


def find_triton(explicit: Path | None = None) -> TritonBinary:
    """The tritonserver to run; raises LaunchError where there is none, or the given one is not executable."""
    if explicit is not None:
        if not (explicit.is_file() and os.access(explicit, os.X_OK)):
            raise LaunchError(f"{explicit} is not an executable file; give the path of a tritonserver")
        return TritonBinary(explicit.resolve(), "path")
    if (found := shutil.which("tritonserver")) is not None:
        return TritonBinary(Path(found), "PATH")
    if (wheel := _in_wheel()) is not None:
        return wheel
    raise LaunchError(
        "no tritonserver found; install it with: pip install 'recserve[serve]', or name one with --triton"
    )


def _in_wheel() -> TritonBinary | None:
    """The server in nvidia-pytriton, found without importing the package, which would start its own machinery."""
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    root = package / "tritonserver"
    server = root / "bin" / "tritonserver"
    if not server.is_file():
        return None
    stub = root / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"
    if not stub.is_file():
        raise LaunchError(f"the Triton of nvidia-pytriton has no stub for Python {PYTHON}; use Python 3.11 to 3.13")
    return TritonBinary(server, "wheel", root / "backends", stub, package.parent / "nvidia_pytriton.libs")
