"""Targets of the encoder: what each can run, its exported configuration, and the backend it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_client.contract import models as names
from recserve_server_ext.common.errors import EncoderError, LaunchError
from recserve_server_ext.config.server import EncoderSettings, Provider, ServeSettings, Target
from recserve_server_ext.encoder.manifest import INT8, EncoderManifest, Precision
from recserve_server_ext.triton.binary import TritonBinary
from recserve_server_ext.triton.encoder_config import ENGINE_CACHE, ENGINE_CACHE_KEY, EncoderConfig

#: Folder in an encoder folder, with a folder for each exported target, which holds the Triton model `encoder`.
TARGETS: Final = "triton"
CONFIG: Final = "config.pbtxt"
#: Folder in a model folder, with configurations by name, one of which replaces `config.pbtxt`.
CONFIGS: Final = "configs"
_VERSION: Final = "1"


def targets_of(precision: Precision) -> tuple[Target, ...]:
    """The targets that can run an encoder of a precision.

    int8 is made for CPUs: its graph has a scale for each token, which TensorRT has no layer for. Only TensorRT computes
    in bf16.
    """
    if precision in INT8:
        return ("embedded", "onnxruntime")
    return ("tensorrt",) if precision == "bf16" else ("embedded", "onnxruntime", "tensorrt")


def providers_of(precision: Precision) -> tuple[Provider, ...]:
    """The providers of target onnxruntime that can run an encoder of a precision."""
    return ("cpu",) if precision in INT8 else ("cpu", "cuda", "tensorrt")


def model_folder(encoder: Path, target: Target) -> Path:
    """The Triton model folder of a target in an encoder folder."""
    return encoder / TARGETS / target / names.ENCODER


def exported_config(encoder: Path, manifest: EncoderManifest, serve: ServeSettings) -> pb.ModelConfig:
    """The exported configuration of the model `encoder` for the target of the settings, or EncoderError."""
    target = serve.encoder.target
    if target == "embedded":
        return _embedded(encoder, manifest, serve)
    config = _read(model_folder(encoder, target), manifest, serve.encoder)
    if serve.threads and serve.encoder.provider == "cpu" and target == "onnxruntime":
        config.instance_group[0].count = serve.threads
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        if ENGINE_CACHE_KEY in accelerator.parameters:
            cache = encoder / TARGETS / target / ENGINE_CACHE
            accelerator.parameters[ENGINE_CACHE_KEY] = str(cache.resolve())
    return config


def fitted(encoder: Path, manifest: EncoderManifest, serve: ServeSettings) -> ServeSettings:
    """The settings with no larger requests to the encoder than its target takes.

    Raises:
        EncoderError: The target does not run such an encoder, was not exported, or its configuration cannot be read.
    """
    target, precision, provider = serve.encoder.target, manifest.precision, serve.encoder.provider
    if target not in targets_of(precision):
        raise EncoderError(
            f"target {target} does not run {precision} encoders; set precision to one that it runs, such as fp32, or "
            f"[encoder] target to {' or '.join(targets_of(precision))}"
        )
    if target == "onnxruntime" and provider not in providers_of(precision):
        raise EncoderError(
            f"provider {provider} does not run {precision} encoders; set [encoder] provider to "
            f"{' or '.join(providers_of(precision))}, or precision to fp16"
        )
    if target == "embedded":
        return serve
    most = _read(model_folder(encoder, target), manifest, serve.encoder).max_batch_size
    return msgspec.structs.replace(serve, encoder_batch=min(most, serve.encoder_batch))


def _embedded(encoder: Path, manifest: EncoderManifest, serve: ServeSettings) -> pb.ModelConfig:
    """The configuration with the server's batch, and the preferred batches where these were exported."""
    file = model_folder(encoder, "embedded") / CONFIG
    return EncoderConfig(
        target="embedded",
        precision=manifest.precision,
        dim=manifest.dim,
        max_tokens=manifest.max_tokens,
        max_batch=serve.encoder_batch,
        preferred=tuple(_parse(file).dynamic_batching.preferred_batch_size) if file.is_file() else (),
    ).proto()


def _read(folder: Path, manifest: EncoderManifest, encoder: EncoderSettings) -> pb.ModelConfig:
    """The exported configuration of target onnxruntime or tensorrt."""
    target = encoder.target
    file = folder / CONFIGS / f"{encoder.provider}.pbtxt" if target == "onnxruntime" else folder / CONFIG
    if not file.is_file():
        raise EncoderError(
            f"the {manifest.precision} encoder has no {target} model in {folder}; make it with: "
            f"recserve export encoder --precision {manifest.precision} --target {target}"
        )
    config = _parse(file)
    if not (folder / _VERSION / config.default_model_filename).is_file():
        raise EncoderError(
            f"{folder / _VERSION} has no {config.default_model_filename}; where there is a GPU, build it with: "
            f"sh {folder.parent / 'build.sh'}"
        )
    found = [config.output[0].dims[0]] if config.output else []
    if found != [manifest.dim]:
        raise EncoderError(f"{file} gives vectors of {found} elements, the encoder has {manifest.dim}; export it again")
    return config


def _parse(file: Path) -> pb.ModelConfig:
    try:
        return text_format.Parse(file.read_text(encoding="utf-8"), pb.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
        raise EncoderError(f"{file} cannot be read: {error}; export the encoder again") from error


def find_backend(binary: TritonBinary, encoder: EncoderSettings) -> Path | None:
    """The folder of the backend that the target needs; `None` where it needs none, or only the server can tell.

    Raises:
        LaunchError: The server has no such backend, or one without the provider.
    """
    target = encoder.target
    if target == "embedded":
        return None
    beside = [binary.backends] if binary.backends is not None else _own_backends(binary)
    places = [*([Path(encoder.backends)] if encoder.backends else []), *beside]
    for place in places:
        if (place / target / f"libtriton_{target}.so").is_file():
            backend = (place / target).resolve()
            if target == "onnxruntime":
                _check_provider(encoder.provider, backend)
            return backend
    if not places:
        return None
    where = " or ".join(map(str, places))
    raise LaunchError(
        f"target {target} needs Triton's {target} backend, and there is no {target}/libtriton_{target}.so in {where}; "
        "name a tritonserver that has it with --triton, or a folder of backends in [encoder] backends, or set "
        'target = "embedded"'
    )


def _own_backends(binary: TritonBinary) -> list[Path]:
    """Backends of a server that was installed by other means: beside its folder, or in NVIDIA's place."""
    places = (binary.server.resolve().parent.parent / "backends", Path("/opt/tritonserver/backends"))
    return [place for place in places if place.is_dir()]


def _check_provider(provider: Provider, backend: Path) -> None:
    library = f"libonnxruntime_providers_{provider}.so"
    if provider != "cpu" and not (backend / library).is_file():
        raise LaunchError(
            f"provider {provider} needs {library} in {backend}, and it is not there; take the backend of NVIDIA's "
            'image for GPUs, or set provider = "cpu"'
        )
