"""`recserve doctor --gpu`: driver, libraries, providers, and whether an encoder gives the CPU's vectors on the GPU."""

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
from recserve_server_ext.doctor.finding import Finding
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.triton.binary import find_triton
from recserve_server_ext.triton.encoder_target import find_backend

_DRIVER_S: Final = 20
_GPU_EXTRA: Final = "uninstall onnxruntime, then: pip install 'recserve[gpu]'"
_LIBRARIES: Final = "pip install 'onnxruntime-gpu[cuda,cudnn]', or use NVIDIA's CUDA image"
#: What the CUDA provider is linked to, in the versions that releases of onnxruntime-gpu have been built with.
_CUDA: Final = {
    "libcudart": ("libcudart.so.13", "libcudart.so.12"),
    "libcublasLt": ("libcublasLt.so.13", "libcublasLt.so.12"),
    "libcudnn": ("libcudnn.so.9",),
}
#: Backends of Triton's own, and the provider that each needs for a GPU.
_ON_GPU: Final[tuple[tuple[Target, Provider], ...]] = (("onnxruntime", "cuda"), ("tensorrt", "cpu"))
_TENSORRT: Final = ("libnvinfer.so.10", "libnvinfer.so.11")
#: Least cosine of a GPU's vector with the CPU's, by the encoder's precision; fp32 sums in another order only.
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
) -> list[tuple[str, Callable[[], Finding]]]:
    """The checks of a GPU, by name.

    Args:
        workspace: Where the encoder is.
        settings: Those to serve with.
        triton: The tritonserver to look at instead of the one found.
    """
    return [
        ("NVIDIA driver", _driver),
        ("CUDA libraries", _cuda_libraries),
        ("onnxruntime-gpu", _onnxruntime_gpu),
        ("TensorRT", _tensorrt),
        ("CUDA provider", lambda: _provider(workspace, settings, "cuda")),
        ("TensorRT provider", lambda: _provider(workspace, settings, "tensorrt")),
        ("Triton backends", lambda: _backends(settings, triton)),
    ]


def _driver() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding(
            "NVIDIA driver", "no nvidia-smi", "install NVIDIA's driver; in a container, start that with --gpus all"
        )
    command = [program, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=_DRIVER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("NVIDIA driver", f"nvidia-smi does not answer: {error}", "restart the machine or its driver")
    if ran.returncode or not ran.stdout.strip():
        said = (ran.stdout + ran.stderr).strip()[-200:] or "it shows no GPU"
        return Finding("NVIDIA driver", said, "load the driver's kernel module, of the same version as nvidia-smi")
    return Finding("NVIDIA driver", "; ".join(ran.stdout.strip().splitlines()))


def _cuda_libraries() -> Finding:
    _preload()
    found = {name: _loads(files) for name, files in _CUDA.items()}
    missing = [" or ".join(_CUDA[name]) for name, file in found.items() if not file]
    if missing:
        return Finding("CUDA libraries", f"not found: {', '.join(missing)}", _LIBRARIES)
    return Finding("CUDA libraries", ", ".join(found.values()))


def _preload() -> None:
    """Let onnxruntime-gpu find the libraries of NVIDIA's wheels, which are on no search path."""
    import onnxruntime

    preload = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if preload is not None and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        preload()


def _loads(files: tuple[str, ...]) -> str:
    for file in files:
        try:
            ctypes.CDLL(file)
        except OSError:
            continue
        return file
    return ""


def _onnxruntime_gpu() -> Finding:
    import onnxruntime

    offered = ", ".join(name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers())
    try:
        found = version("onnxruntime-gpu")
    except PackageNotFoundError:
        return Finding("onnxruntime-gpu", f"not installed; onnxruntime offers {offered}", _GPU_EXTRA)
    advice = "" if "CUDA" in offered else _GPU_EXTRA
    return Finding("onnxruntime-gpu", f"{found}, offers {offered}", advice)


def _tensorrt() -> Finding:
    library = _loads(_TENSORRT)
    tools = [name for name in ("trtexec",) if shutil.which(name)]
    if find_spec("tensorrt") is not None:
        tools.append(f"the package {version('tensorrt')}")
    if not library:
        advice = "pip install tensorrt (10 or newer), or use NVIDIA's TensorRT image; target onnxruntime needs none"
        return Finding("TensorRT", f"not found: {' or '.join(_TENSORRT)}", advice)
    if not tools:
        return Finding("TensorRT", library, "nothing here builds plans: install trtexec, or pip install tensorrt")
    return Finding("TensorRT", f"{library}, plans by {' and '.join(tools)}")


def _provider(workspace: Workspace, settings: ServeSettings, provider: Provider) -> Finding:
    """Encode the same texts with the provider and on the CPU; int8 is checked as fp32, which GPUs run."""
    from recserve_server_ext.encoder.gpu import GpuEncoder
    from recserve_server_ext.encoder.text_encoder import TextEncoder

    name = f"{'CUDA' if provider == 'cuda' else 'TensorRT'} provider"
    folder = choose_encoder(workspace, settings.precision)
    precision = read_manifest(folder, verify=False).precision
    if precision not in _LEAST_COS:
        folder, precision = choose_encoder(workspace, "fp32"), "fp32"
    found = GpuEncoder(folder, provider).encode(_TEXTS)
    cosine = float((found * TextEncoder(folder).encode(_TEXTS, role="query")).sum(axis=1).min())
    least = _LEAST_COS[precision]
    what = f"{precision}, {len(_TEXTS)} texts: least cosine with the CPU {cosine:.6f}"
    if not cosine >= least:
        return Finding(name, what, f"at least {least} is needed: do not serve with it; try another onnxruntime-gpu")
    return Finding(name, what)


def _backends(settings: ServeSettings, triton: Path | None) -> Finding:
    """What of Triton's own could run an encoder on a GPU here."""
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
        return Finding("Triton backends", ", ".join(found))
    what = f"with GPU: {', '.join(found) or 'none'}; without: {', '.join(missing)}"
    return Finding("Triton backends", what, "run the tritonserver of NVIDIA's image: --triton PATH")
