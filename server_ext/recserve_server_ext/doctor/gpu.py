"""The checks of `recserve doctor --gpu`: driver, libraries, providers, and whether a GPU gives the CPU's vectors."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from recserve_server_ext.common.errors import EncoderError, LaunchError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import EncoderSettings, Provider, ServeSettings, Target
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.triton.binary import find_triton
from recserve_server_ext.triton.encoder_target import find_backend

#: What a check found, and what to do; the advice is empty when all is well.
Outcome = tuple[str, str]
_DRIVER_S: Final = 20
_GPU_EXTRA: Final = "uninstall onnxruntime, then: pip install 'recserve[gpu]'"
_LIBRARIES: Final = "pip install 'onnxruntime-gpu[cuda,cudnn]', or use NVIDIA's CUDA image"
#: Libraries of the CUDA provider, in the versions that releases of onnxruntime-gpu have been built with.
_CUDA: Final = {
    "libcudart": ("libcudart.so.13", "libcudart.so.12"),
    "libcublasLt": ("libcublasLt.so.13", "libcublasLt.so.12"),
    "libcudnn": ("libcudnn.so.9",),
}
#: Triton's own backends, and the provider that each needs for a GPU.
_ON_GPU: Final[tuple[tuple[Target, Provider], ...]] = (("onnxruntime", "cuda"), ("tensorrt", "cpu"))
_TENSORRT: Final = ("libnvinfer.so.10", "libnvinfer.so.11")
#: Least cosine of a GPU's vector with the CPU's, by precision; fp32 differs only in the order of sums.
_LEAST_COS: Final = {"fp32": 0.9999, "fp16": 0.999, "bf16": 0.99}
_TEXTS: Final = (
    "Alien",
    "space opera",
    "a heist goes wrong",
    "A robot falls in love with another robot on an abandoned planet.",
    "1917",
    "Łódź, København, İstanbul, Straße",
    "千と千尋の神隠し",
    "A retired detective returns to the city where he began, and finds that nobody remembers him. " * 40,
)


def gpu_checks(
    workspace: Workspace, settings: ServeSettings, triton: Path | None
) -> list[tuple[str, Callable[[], Outcome]]]:
    """The checks of a GPU, by name."""
    return [
        ("NVIDIA driver", _driver),
        ("CUDA libraries", _cuda_libraries),
        ("onnxruntime-gpu", _onnxruntime_gpu),
        ("TensorRT", _tensorrt),
        ("CUDA provider", lambda: _provider(workspace, settings, "cuda")),
        ("TensorRT provider", lambda: _provider(workspace, settings, "tensorrt")),
        ("Triton backends", lambda: _backends(settings, triton)),
    ]


def _driver() -> Outcome:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no nvidia-smi", "install NVIDIA's driver; in a container, start that with --gpus all"
    command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer: {error}", "restart the machine or its driver"
    if ran.returncode or not ran.stdout.strip():
        said = (ran.stdout + ran.stderr).strip()[-200:] or "it shows no GPU"
        return said, "load the driver's kernel module, of the same version as nvidia-smi"
    return "; ".join(ran.stdout.strip().splitlines()), ""


def _cuda_libraries() -> Outcome:
    _preload()
    found = {name: _loads(files) for name, files in _CUDA.items()}
    missing = [" or ".join(_CUDA[name]) for name, file in found.items() if not file]
    if missing:
        return f"not found: {', '.join(missing)}", _LIBRARIES
    return ", ".join(found.values()), ""


def _preload() -> None:
    """Let onnxruntime-gpu find the libraries of NVIDIA's wheels, which are on no search path."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if preload is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        preload()


def _loads(files: tuple[str, ...]) -> str:
    """The first of these libraries that loads; empty without any."""
    for file in files:
        try:
            ctypes.CDLL(file)
        except OSError:
            continue
        return file
    return ""


def _onnxruntime_gpu() -> Outcome:
    import onnxruntime

    offered = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    try:
        found = version("onnxruntime-gpu")
    except PackageNotFoundError:
        return f"not installed; onnxruntime offers {offered}", _GPU_EXTRA
    return f"{found}, offers {offered}", "" if "CUDA" in offered else _GPU_EXTRA


def _tensorrt() -> Outcome:
    library = _loads(_TENSORRT)
    if not library:
        advice = "pip install tensorrt (10 or newer), or use NVIDIA's TensorRT image; target onnxruntime needs none"
        return f"not found: {' or '.join(_TENSORRT)}", advice
    tools = ["trtexec"] if shutil.which("trtexec") else []
    if find_spec("tensorrt") is not None:
        tools.append(f"the package {version('tensorrt')}")
    if not tools:
        return library, "nothing here builds plans: install trtexec, or pip install tensorrt"
    return f"{library}, plans by {' and '.join(tools)}", ""


def _provider(workspace: Workspace, settings: ServeSettings, provider: Provider) -> Outcome:
    """Encode the same texts with the provider and on the CPU; fp32, which GPUs run, takes the place of int8."""
    from recserve_server_ext.encoder.gpu import GpuEncoder
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    folder = choose_encoder(workspace, settings.precision)
    precision = read_manifest(folder, verify=False).precision
    if precision not in _LEAST_COS:
        folder, precision = choose_encoder(workspace, "fp32"), "fp32"
    found = GpuEncoder(folder, provider).encode(_TEXTS)
    cosine = float((found * TextEncoder(folder).encode(_TEXTS, role="query")).sum(axis=1).min())
    least = _LEAST_COS[precision]
    what = f"{precision}, {len(_TEXTS)} texts: least cosine with the CPU {cosine:.6f}"
    good = cosine >= least  # not so for NaN
    return what, "" if good else f"at least {least} is needed: do not serve with it; try another onnxruntime-gpu"


def _backends(settings: ServeSettings, triton: Path | None) -> Outcome:
    """Triton's own backends that could run an encoder on a GPU here."""
    binary, found, missing = find_triton(triton), [], []
    for target, provider in _ON_GPU:
        asked = EncoderSettings(target=target, provider=provider, backends=settings.encoder.backends)
        try:
            backend = find_backend(binary, asked)
        except (LaunchError, EncoderError):
            missing.append(target)
            continue
        found.append(f"{target}{' (not looked into)' if backend is None else ''}")
    if not missing:
        return ", ".join(found), ""
    what = f"with GPU: {', '.join(found) or 'none'}; without: {', '.join(missing)}"
    return what, "run the tritonserver of NVIDIA's image: --triton PATH"
