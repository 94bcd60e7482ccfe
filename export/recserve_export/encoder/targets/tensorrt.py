"""TensorRT plans: the command that builds one, and building it where there is a GPU.

TensorRT 10 or newer: the inputs are 64-bit integers. Nothing here has run on a GPU; see
docs/how-to/choose-what-runs-the-encoder.md.
"""

from __future__ import annotations

import importlib
import shlex
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from recserve_export.errors import ExportError
from recserve_server_ext.triton.encoder_config import EncoderConfig, ProfileShapes, profile_shapes

PLAN: Final = "model.plan"
_WORKSPACE_MIB: Final = 2048
#: A plan of many profiles may take minutes for each.
_BUILD_S: Final = 3600
_QUOTED: Final = 400


def trtexec_arguments(config: EncoderConfig, onnx: str, plan: str) -> list[str]:
    """`trtexec` and its arguments: one profile for each width that texts are padded to.

    fp16 graphs are built strongly typed, so that pooling and normalisation stay in fp32 as the graph says; bf16 lets
    the builder choose it for an fp32 graph; fp32 without TF32, whose mantissa has 10 bits.
    """
    arguments = ["trtexec", f"--onnx={onnx}", f"--saveEngine={plan}", "--skipInference"]
    arguments += [f"--memPoolSize=workspace:{_WORKSPACE_MIB}", *_FLAGS[config.precision]]
    for number, shapes in enumerate(profile_shapes(config)):
        arguments += [
            f"--profile={number}",
            f"--minShapes={shapes.least}",
            f"--optShapes={shapes.usual}",
            f"--maxShapes={shapes.most}",
        ]
    return arguments


_FLAGS: Final[dict[str, list[str]]] = {
    "fp32": ["--noTF32"],
    "fp16": ["--stronglyTyped", "--noTF32"],
    "bf16": ["--bf16", "--noTF32"],
}


def build_script(config: EncoderConfig, onnx: str, plan: str) -> str:
    """A shell script that builds the plan from where it lies; TRTEXEC names another trtexec than that on PATH."""
    _, *arguments = trtexec_arguments(config, onnx, plan)
    lines = " \\\n    ".join(map(shlex.quote, arguments))
    return (
        "#!/bin/sh\n"
        "# Builds the TensorRT plan (TensorRT 10 or newer, on the kind of GPU and the version that will serve it).\n"
        f'set -eu\ncd "$(dirname "$0")"\n"${{TRTEXEC:-trtexec}}" \\\n    {lines}\n'
    )


def build_plan(config: EncoderConfig, onnx: Path, plan: Path) -> str:
    """Build a plan with trtexec, else with the package tensorrt.

    Returns:
        Why it was not tried: there is no GPU, or neither of the two; empty = it was built.

    Raises:
        ExportError: It was tried, and failed; quotes what was said.
    """
    if not has_gpu():
        return "there is no NVIDIA GPU"
    if (trtexec := shutil.which("trtexec")) is not None:
        _run(trtexec, trtexec_arguments(config, str(onnx), str(plan))[1:])
    elif find_spec("tensorrt") is not None:
        plan.write_bytes(_build_with_package(config, onnx))
    else:
        return "there is no trtexec on PATH, and the package tensorrt is not installed"
    if not plan.is_file() or not plan.stat().st_size:
        raise ExportError(f"TensorRT said nothing and wrote no plan to {plan}; run the build.sh beside it by hand")
    return ""


def has_gpu() -> bool:
    """Whether the NVIDIA driver shows a GPU."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return False
    try:
        found = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return found.returncode == 0 and "GPU " in found.stdout


def _run(program: str, arguments: list[str]) -> None:
    try:
        done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=_BUILD_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ExportError(f"trtexec did not build the plan: {error}; take another --target") from error
    if done.returncode:
        said = (done.stdout + done.stderr).strip()[-_QUOTED:]
        raise ExportError(f"trtexec ended with code {done.returncode}: {said}; take another --target or --precision")


def _build_with_package(config: EncoderConfig, onnx: Path) -> Any:
    trt = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    typed = config.precision == "fp16"
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typed else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx.read_bytes()):
        said = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))[:_QUOTED]
        raise ExportError(f"TensorRT cannot read {onnx}: {said}; take another --target")
    options = builder.create_builder_config()
    options.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_MIB << 20)
    options.clear_flag(trt.BuilderFlag.TF32)
    if config.precision == "bf16":
        options.set_flag(trt.BuilderFlag.BF16)
    for shapes in profile_shapes(config):
        options.add_optimization_profile(_profile(builder, shapes))
    plan = builder.build_serialized_network(network, options)
    if plan is None:
        raise ExportError("TensorRT built no plan; run the build.sh beside it by hand to see why")
    return bytes(plan)


def _profile(builder: Any, shapes: ProfileShapes) -> Any:
    profile = builder.create_optimization_profile()
    parts = [_by_input(text) for text in (shapes.least, shapes.usual, shapes.most)]
    for name in parts[0]:
        profile.set_shape(name, *(part[name] for part in parts))
    return profile


def _by_input(text: str) -> dict[str, tuple[int, ...]]:
    pairs = (part.split(":") for part in text.split(","))
    return {name: tuple(map(int, sizes.split("x"))) for name, sizes in pairs}
