"""Triton model configurations: protobuf -> config.pbtxt, parsed back before it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_client.contract import models as names
from recserve_client.contract.models import Tensor
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import ModelSettings, ServeSettings
from recserve_server_ext.encoder.loaded import LoadedEncoder
from recserve_server_ext.encoder.manifest import EncoderManifest
from recserve_server_ext.strategies.registry import Registry
from recserve_server_ext.triton.encoder_target import exported_config, model_folder
from recserve_server_ext.triton.network_config import SnapshotNetwork, network_config, runs_natively

#: Batches that Triton hands over together, where so much waits: what there is no time for is refused then.
HANDED_BATCHES: Final = 4
_DATATYPES = {"BYTES": pb.TYPE_STRING, "INT64": pb.TYPE_INT64, "FP32": pb.TYPE_FP32}


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as Triton serves it: its configuration, and where its files come from.

    Attributes:
        code: Folder of its code in `model_repository`; empty for a model without a Python process.
        exported: Exported model folder whose files are served.
        settings: JSON for its code, in a file that only the owner reads: the server tells everybody its configuration.
        copied: File that is copied into the model, since its folder may be removed while it is served.
        warmup_tokens: Length of the attention mask that warm-up requests read; 0 without such requests.
    """

    config: pb.ModelConfig
    code: str = ""
    settings: str = ""
    exported: Path | None = None
    copied: Path | None = None
    warmup_tokens: int = 0

    @property
    def name(self) -> str:
        """Name of the model and of its folder."""
        return str(self.config.name)

    @property
    def has_process(self) -> bool:
        """Whether Triton runs the model in a Python process of its own."""
        return bool(self.code)

    def renamed(self, name: str) -> Model:
        """The same model under another name."""
        config = pb.ModelConfig()
        config.CopyFrom(self.config)
        config.name = name
        return replace(self, config=config)


def all_models(
    settings: ModelSettings, encoder: LoadedEncoder, networks: Sequence[SnapshotNetwork] = ()
) -> list[Model]:
    """Every model of a server that starts, each after those it asks; raises EncoderError as `encoder_models`."""
    packed = [names.RECOMMEND, names.EMBED, *([names.ITEMS] if settings.store else []), names.INTERACTIONS]
    handed, batch = msgspec.json.encode(settings).decode(), HANDED_BATCHES * settings.serve.batch
    served = {
        name: python_model(name, (names.REQUEST,), (names.RESPONSE,), max_batch=batch, settings=handed)
        for name in packed
    }
    told = Registry(settings.serve.strategies).served(settings.serve.strategy, settings.serve.fallback)
    served[names.RECOMMEND].config.parameters[names.STRATEGIES].string_value = msgspec.json.encode(told).decode()
    return [
        *encoder_models(settings, encoder),
        *(network_model(network, settings) for network in networks),
        *served.values(),
        *ensembles(settings, encoder),
    ]


def encoder_models(settings: ModelSettings, encoder: LoadedEncoder) -> list[Model]:
    """The models of one encoder, whose tensors have its sizes; raises EncoderError where its target is missing."""
    handed = msgspec.json.encode(msgspec.structs.replace(settings, encoder=encoder.folder)).decode()
    serve = msgspec.structs.replace(settings.serve, encoder_batch=encoder.batch)
    own = {name: names.of_encoder(name, encoder.fingerprint) for name in (names.ENCODER, names.TOKENIZE, names.POOL)}
    rows = (*(_row(tensor, -1) for tensor in _tokens(settings, encoder)), _row(names.REQUEST_ROWS, -1))
    pooled = (names.REQUEST_ROWS, names.vector(encoder.manifest.dim))
    tokenize, pool = names.TOKENIZE, names.POOL
    return [
        served_encoder(Path(encoder.folder), encoder.manifest, serve, handed, name=own[names.ENCODER]),
        python_model(own[tokenize], (_row(names.REQUEST, 1),), rows, code=tokenize, max_batch=0, settings=handed),
        python_model(own[pool], pooled, (names.PACKED,), code=pool, max_batch=encoder.batch, settings=handed),
    ]


def served_encoder(
    encoder: Path, manifest: EncoderManifest, serve: ServeSettings, handed: str, *, name: str = names.ENCODER
) -> Model:
    """The model `encoder` for the target of the settings.

    Args:
        serve: Settings, made to fit by `recserve_server_ext.triton.encoder_target.fitted`.
        handed: JSON for a Python model.

    Raises:
        EncoderError: The target was not exported, or its configuration cannot be read.
    """
    config = exported_config(encoder, manifest, serve)
    config.name = name
    if serve.encoder.target == "embedded":
        return Model(config=config, code=names.ENCODER, settings=handed, warmup_tokens=manifest.max_tokens)
    exported = model_folder(encoder, serve.encoder.target)
    return Model(config=config, exported=exported, warmup_tokens=manifest.max_tokens)


def network_model(network: SnapshotNetwork, settings: ModelSettings) -> Model:
    """The model of a network."""
    config = network_config(network, settings.serve)
    if runs_natively(settings.serve):
        return Model(config=config, copied=network.file)
    handed = msgspec.json.encode(settings).decode()
    return Model(config=config, code=names.SEQUENCE, settings=handed, copied=network.file)


def ensembles(settings: ModelSettings, encoder: LoadedEncoder) -> list[Model]:
    """The ensembles `encoder`, a lasting name of the served encoder, and `recommend_text`."""
    tokenize, encode, pool = (
        names.of_encoder(name, encoder.fingerprint) for name in (names.TOKENIZE, names.ENCODER, names.POOL)
    )
    tokens = _tokens(settings, encoder)
    ids, mask, vector = names.INPUT_IDS.name, names.ATTENTION_MASK.name, names.VECTOR
    rows, request, packed, response = (
        tensor.name for tensor in (names.REQUEST_ROWS, names.REQUEST, names.PACKED, names.RESPONSE)
    )
    encoding = (encode, {ids: ids, mask: mask}, {vector: vector})
    steps = (
        (tokenize, {request: request}, {ids: ids, mask: mask, rows: rows}),
        encoding,
        (pool, {rows: rows, vector: vector}, {packed: packed}),
        (names.RECOMMEND, {request: packed}, {response: response}),
    )
    whole = (_row(names.REQUEST, 1),), (_row(names.RESPONSE, 1),)
    return [
        _ensemble(names.ENCODER, tokens, (names.vector(encoder.manifest.dim),), (encoding,), max_batch=encoder.batch),
        _ensemble(names.RECOMMEND_TEXT, *whole, steps, max_batch=0),
    ]


def python_model(
    name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], *, max_batch: int, settings: str, code: str = ""
) -> Model:
    """A model of the Python backend, on the CPU, in one process.

    Args:
        inputs: Shapes without the batch dimension where `max_batch` is positive.
        outputs: Shapes likewise.
        max_batch: Most rows of a batch; 0 for no batching.
        settings: JSON handed to the model.
        code: Folder of its code in `model_repository`; by default the name.
    """
    config = _config(name, inputs, outputs, backend="python", max_batch_size=max_batch)
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    if max_batch:
        # A delay of 0: what waits is batched, and nobody waits for a batch. No queue policy: with a bound on the queue
        # this Triton's batcher sleeps half a second now and then (docs/decisions/004-no-queue-policy.md).
        config.dynamic_batching.SetInParent()
    return Model(config=config, code=code or name, settings=settings)


def config_text(model: Model) -> str:
    """The config.pbtxt of a model; raises ConfigError where it does not read back as the configuration."""
    text: str = text_format.MessageToString(model.config)
    if text_format.Parse(text, pb.ModelConfig()) != model.config:
        raise ConfigError(f"the configuration of {model.name} does not read back as it was written")
    return text


def _ensemble(
    name: str,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    steps: tuple[tuple[str, dict[str, str], dict[str, str]], ...],
    *,
    max_batch: int,
) -> Model:
    """A chain of models; a step maps tensors of a model to tensors of the ensemble: (model, inputs, outputs)."""
    config = _config(name, inputs, outputs, platform="ensemble", max_batch_size=max_batch)
    for model, taken, given in steps:
        config.ensemble_scheduling.step.add(model_name=model, model_version=-1, input_map=taken, output_map=given)
    return Model(config=config)


def _config(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], **fields: Any) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, **fields)
    for tensor in inputs:
        config.input.add(name=tensor.name, data_type=_DATATYPES[tensor.datatype], dims=tensor.shape)
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_DATATYPES[tensor.datatype], dims=tensor.shape)
    return config


def _tokens(settings: ModelSettings, encoder: LoadedEncoder) -> tuple[Tensor, ...]:
    """Ids and mask, of a fixed width where Python sees them: then Triton refuses crafted sizes."""
    width = encoder.manifest.max_tokens if settings.serve.encoder.target == "embedded" else -1
    return tuple(tensor._replace(shape=(width,)) for tensor in (names.INPUT_IDS, names.ATTENTION_MASK))


def _row(tensor: Tensor, rows: int) -> Tensor:
    """The tensor with the batch dimension written out, for models that Triton does not batch."""
    return tensor._replace(shape=(rows, *tensor.shape))
