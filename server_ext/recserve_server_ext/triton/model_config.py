"""Triton model configurations: typed objects -> protobuf -> config.pbtxt, parsed back before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_client.contract import models as names
from recserve_client.contract.models import Tensor
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.encoder.loaded import LoadedEncoder
from recserve_server_ext.triton.encoder_target import ServedEncoder, served_encoder

_DATATYPES = {"BYTES": pb.TYPE_STRING, "INT64": pb.TYPE_INT64, "FP32": pb.TYPE_FP32}


@dataclass(frozen=True, kw_only=True)
class PythonModel:
    """A model of the Python backend, on the CPU, in one process.

    Attributes:
        name: Of the model and its folder.
        source: Folder of its code in `model_repository`.
        inputs: Shapes without the batch dimension where `max_batch` is positive.
        outputs: Likewise.
        max_batch: Rows of one batch; 0 = no batching.
        settings: JSON handed to the model.
    """

    name: str
    source: str = ""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int
    settings: str

    def proto(self) -> pb.ModelConfig:
        """The configuration as protobuf."""
        config = pb.ModelConfig(name=self.name, backend="python", max_batch_size=self.max_batch)
        _add_tensors(config, self.inputs, self.outputs)
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
        config.parameters["settings"].string_value = self.settings
        if self.max_batch:
            # A delay of 0: what waits is batched, and nobody waits for a batch. No queue policy: with a bound on the
            # queue this Triton's batcher sleeps half a second now and then (docs/decisions/004-no-queue-policy.md).
            config.dynamic_batching.SetInParent()
        return config


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of an ensemble; the maps are from the model's tensor to the ensemble's."""

    model: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """A chain of models."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    max_batch: int = 0

    def proto(self) -> pb.ModelConfig:
        """The configuration as protobuf."""
        config = pb.ModelConfig(name=self.name, platform="ensemble", max_batch_size=self.max_batch)
        _add_tensors(config, self.inputs, self.outputs)
        for step in self.steps:
            config.ensemble_scheduling.step.add(
                model_name=step.model, model_version=-1, input_map=step.inputs, output_map=step.outputs
            )
        return config


Model = PythonModel | ServedEncoder | Ensemble


def has_process(model: Model) -> bool:
    """Whether Triton runs the model in a Python process of its own."""
    return isinstance(model, PythonModel) or (isinstance(model, ServedEncoder) and model.target == "embedded")


def all_models(settings: ModelSettings, encoder: LoadedEncoder) -> list[Model]:
    """Every model that is served when a server starts, each after those it asks.

    Args:
        settings: Handed to the Python models.
        encoder: What is served first.

    Raises:
        EncoderError: The target of the encoder was not exported.
    """
    packed = [names.RECOMMEND, names.EMBED, *([names.ITEMS] if settings.store else []), names.INTERACTIONS]
    handed, batch = msgspec.json.encode(settings).decode(), settings.serve.batch
    return [
        *encoder_models(settings, encoder),
        *(
            PythonModel(name=name, inputs=(names.REQUEST,), outputs=(names.RESPONSE,), max_batch=batch, settings=handed)
            for name in packed
        ),
        *ensembles(settings, encoder),
    ]


def encoder_models(settings: ModelSettings, encoder: LoadedEncoder) -> list[PythonModel | ServedEncoder]:
    """The models that belong to one encoder: its tensors have its sizes.

    Args:
        settings: Handed to them, with the folder of the encoder.
        encoder: Which one. Its width of tokens is fixed where Python sees them, so that Triton refuses crafted sizes.

    Raises:
        EncoderError: The target of the encoder was not exported.
    """
    handed = msgspec.json.encode(msgspec.structs.replace(settings, encoder=encoder.folder)).decode()
    serve = msgspec.structs.replace(settings.serve, encoder_batch=encoder.batch)
    tokens, vector = _tokens(settings, encoder), names.vector(encoder.dim)

    def model(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], max_batch: int) -> PythonModel:
        own = names.of_encoder(name, encoder.fingerprint)
        return PythonModel(name=own, source=name, inputs=inputs, outputs=outputs, max_batch=max_batch, settings=handed)

    return [
        served_encoder(
            Path(encoder.folder),
            encoder.manifest,
            serve,
            handed,
            name=names.of_encoder(names.ENCODER, encoder.fingerprint),
        ),
        model(
            names.TOKENIZE,
            (_row(names.REQUEST, 1),),
            (*(_row(tensor, -1) for tensor in tokens), _row(names.REQUEST_ROWS, -1)),
            0,
        ),
        model(names.POOL, (names.REQUEST_ROWS, vector), (names.PACKED,), encoder.batch),
    ]


def ensembles(settings: ModelSettings, encoder: LoadedEncoder) -> list[Ensemble]:
    """The models that lead to those of the encoder that is served."""
    return [_encoder(settings, encoder), _recommend_text(encoder.fingerprint)]


def _tokens(settings: ModelSettings, encoder: LoadedEncoder) -> tuple[Tensor, ...]:
    width = encoder.max_tokens if settings.serve.encoder.target == "embedded" else -1
    return tuple(tensor._replace(shape=(width,)) for tensor in (names.INPUT_IDS, names.ATTENTION_MASK))


def _encoder(settings: ModelSettings, encoder: LoadedEncoder) -> Ensemble:
    """`encoder`: the served one under a name that stays."""
    tokens = _tokens(settings, encoder)
    step = Step(
        model=names.of_encoder(names.ENCODER, encoder.fingerprint),
        inputs={tensor.name: tensor.name for tensor in tokens},
        outputs={names.VECTOR: names.VECTOR},
    )
    vector = names.vector(encoder.dim)
    return Ensemble(name=names.ENCODER, inputs=tokens, outputs=(vector,), steps=(step,), max_batch=encoder.batch)


def _recommend_text(fingerprint: str) -> Ensemble:
    ids, mask, rows = names.INPUT_IDS.name, names.ATTENTION_MASK.name, names.REQUEST_ROWS.name
    request, response, packed = names.REQUEST.name, names.RESPONSE.name, names.PACKED.name
    tokenize, encoder, pool = (
        names.of_encoder(name, fingerprint) for name in (names.TOKENIZE, names.ENCODER, names.POOL)
    )
    return Ensemble(
        name=names.RECOMMEND_TEXT,
        inputs=(_row(names.REQUEST, 1),),
        outputs=(_row(names.RESPONSE, 1),),
        steps=(
            Step(model=tokenize, inputs={request: request}, outputs={ids: ids, mask: mask, rows: rows}),
            Step(model=encoder, inputs={ids: ids, mask: mask}, outputs={names.VECTOR: names.VECTOR}),
            Step(model=pool, inputs={rows: rows, names.VECTOR: names.VECTOR}, outputs={packed: packed}),
            Step(model=names.RECOMMEND, inputs={request: packed}, outputs={response: response}),
        ),
    )


def config_text(model: Model) -> str:
    """The config.pbtxt of a model.

    Raises:
        ConfigError: What was written does not read back as what was meant.
    """
    proto = model.proto()
    text: str = text_format.MessageToString(proto)
    if text_format.Parse(text, pb.ModelConfig()) != proto:
        raise ConfigError(f"the configuration of {model.name} does not read back as it was written")
    return text


def _row(tensor: Tensor, rows: int) -> Tensor:
    """The tensor with the batch dimension written out, for models that Triton does not batch."""
    return tensor._replace(shape=(rows, *tensor.shape))


def _add_tensors(config: pb.ModelConfig, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> None:
    for tensor in inputs:
        config.input.add(name=tensor.name, data_type=_DATATYPES[tensor.datatype], dims=tensor.shape)
    for tensor in outputs:
        config.output.add(name=tensor.name, data_type=_DATATYPES[tensor.datatype], dims=tensor.shape)
