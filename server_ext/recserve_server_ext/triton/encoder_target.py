"""The model `encoder` of a server: the exported configuration of its target, and the backend that it needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
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
from recserve_server_ext.triton.encoder_config import ENGINE_CACHE, ENGINE_CACHE_KEY, EncoderConfig, write_warmup

#: In an encoder folder: a folder for each exported target, which holds the Triton model `encoder`.
TARGETS: Final = "triton"
CONFIG: Final = "config.pbtxt"
#: In a model folder: configurations by name, one of which takes the place of `config.pbtxt`.
CONFIGS: Final = "configs"
_VERSION: Final = "1"


def targets_of(precision: Precision) -> tuple[Target, ...]:
    """What can run an encoder of a precision.

    int8 is made for CPUs: its graph has a scale for each token, which TensorRT has no layer for. bf16 is an arithmetic
    that TensorRT chooses.
    """
    if precision in INT8:
        return ("embedded", "onnxruntime")
    return ("tensorrt",) if precision == "bf16" else ("embedded", "onnxruntime", "tensorrt")


def providers_of(precision: Precision) -> tuple[Provider, ...]:
    """With what target onnxruntime runs an encoder of a precision."""
    return ("cpu",) if precision in INT8 else ("cpu", "cuda", "tensorrt")


def model_folder(encoder: Path, target: Target) -> Path:
    """The Triton model folder of a target in an encoder folder."""
    return encoder / TARGETS / target / names.ENCODER


@dataclass(frozen=True, kw_only=True)
class ServedEncoder:
    """The model `encoder` as a server runs it.

    Attributes:
        name: Of the model and its folder.
        target: What runs it.
        config: Its configuration.
        exported: Model folder whose files are served; none = the Python model of this package.
        max_tokens: The most tokens of a text.
    """

    name: str
    target: Target
    config: pb.ModelConfig
    exported: Path | None
    max_tokens: int

    def proto(self) -> pb.ModelConfig:
        """The configuration as protobuf."""
        config = pb.ModelConfig()
        config.CopyFrom(self.config)
        config.name = self.name
        return config

    def write_files(self, model: Path, sources: Path) -> None:
        """Write all of a model folder but its configuration.

        Args:
            model: The folder; its version folder exists.
            sources: The folder `model_repository`.

        Raises:
            OSError: It cannot be written.
        """
        write_warmup(model, self.max_tokens)
        if self.exported is None:
            source = sources / names.ENCODER / _VERSION / "model.py"
            (model / _VERSION / "model.py").write_bytes(source.read_bytes())
            return
        for file in (self.exported / _VERSION).iterdir():
            (model / _VERSION / file.name).symlink_to(file.resolve())


def served_encoder(
    encoder: Path, manifest: EncoderManifest, serve: ServeSettings, handed: str, *, name: str = names.ENCODER
) -> ServedEncoder:
    """The model `encoder` for the target of the settings.

    Args:
        encoder: Its folder.
        manifest: What it holds.
        serve: Settings that were made to fit by `fitted`.
        handed: JSON for a Python model.
        name: Of the model.

    Raises:
        EncoderError: The target was not exported, or its configuration cannot be read.
    """
    target = serve.encoder.target
    if target == "embedded":
        config = _embedded(encoder, manifest, serve)
        config.parameters["settings"].string_value = handed
        return ServedEncoder(name=name, target=target, config=config, exported=None, max_tokens=manifest.max_tokens)
    folder = model_folder(encoder, target)
    config = _read(folder, manifest, serve.encoder)
    if serve.threads and serve.encoder.provider == "cpu" and target == "onnxruntime":
        config.instance_group[0].count = serve.threads
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        if ENGINE_CACHE_KEY in accelerator.parameters:
            cache = encoder / TARGETS / target / ENGINE_CACHE
            accelerator.parameters[ENGINE_CACHE_KEY] = str(cache.resolve())
    return ServedEncoder(name=name, target=target, config=config, exported=folder, max_tokens=manifest.max_tokens)


def fitted(encoder: Path, manifest: EncoderManifest, serve: ServeSettings) -> ServeSettings:
    """The settings with no larger requests to the encoder than its target takes.

    Raises:
        EncoderError: The target does not run such an encoder, was not exported, or its configuration cannot be read.
    """
    target = serve.encoder.target
    if target not in targets_of(manifest.precision):
        raise EncoderError(
            f"target {target} does not run {manifest.precision} encoders; set precision to one that it runs, such as "
            f"fp32, or [encoder] target to {' or '.join(targets_of(manifest.precision))}"
        )
    if target == "onnxruntime" and serve.encoder.provider not in providers_of(manifest.precision):
        raise EncoderError(
            f"provider {serve.encoder.provider} does not run {manifest.precision} encoders; set [encoder] provider to "
            f"{' or '.join(providers_of(manifest.precision))}, or precision to fp16"
        )
    if target == "embedded":
        return serve
    most = _read(model_folder(encoder, target), manifest, serve.encoder).max_batch_size
    return msgspec.structs.replace(serve, encoder_batch=min(most, serve.encoder_batch))


def _embedded(encoder: Path, manifest: EncoderManifest, serve: ServeSettings) -> pb.ModelConfig:
    """The exported configuration with the server's batch, or, for an encoder that was exported without, the same."""
    file = model_folder(encoder, "embedded") / CONFIG
    preferred: Sequence[int] = _parse(file).dynamic_batching.preferred_batch_size if file.is_file() else ()
    return EncoderConfig(
        target="embedded",
        precision=manifest.precision,
        dim=manifest.dim,
        max_tokens=manifest.max_tokens,
        max_batch=serve.encoder_batch,
        preferred=tuple(preferred),
    ).proto()


def _read(folder: Path, manifest: EncoderManifest, encoder: EncoderSettings) -> pb.ModelConfig:
    """The exported configuration of a target of Triton's own."""
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
    """The folder of the backend that the target needs; none = it needs none, or the server will have to know.

    Raises:
        LaunchError: The server has no such backend, or one without the provider.
    """
    target = encoder.target
    if target == "embedded":
        return None
    beside = [binary.backends] if binary.backends is not None else own_backends(binary)
    places = [*([Path(encoder.backends)] if encoder.backends else []), *beside]
    for place in places:
        if (place / target / f"libtriton_{target}.so").is_file():
            backend = (place / target).resolve()
            if target == "onnxruntime":
                _check_provider(encoder.provider, backend)
            return backend
    if binary.backends is None and not beside and not encoder.backends:
        return None
    where = " or ".join(map(str, places))
    raise LaunchError(
        f"target {target} needs Triton's {target} backend, and there is no {target}/libtriton_{target}.so in {where}; "
        "name a tritonserver that has it with --triton, or a folder of backends in [encoder] backends, or set "
        'target = "embedded"'
    )


def own_backends(binary: TritonBinary) -> list[Path]:
    """Where a server that was installed by other means has its backends: beside its folder, or in NVIDIA's place."""
    places = (binary.server.resolve().parent.parent / "backends", Path("/opt/tritonserver/backends"))
    return [place for place in places if os.path.isdir(place)]


def _check_provider(provider: Provider, backend: Path) -> None:
    library = f"libonnxruntime_providers_{provider}.so"
    if provider != "cpu" and not (backend / library).is_file():
        raise LaunchError(
            f"provider {provider} needs {library} in {backend}, and it is not there; take the backend of NVIDIA's "
            'image for GPUs, or set provider = "cpu"'
        )
