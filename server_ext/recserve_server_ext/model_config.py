"""Triton model configurations: typed objects -> protobuf -> config.pbtxt, parsed back before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from recserve_client.contract import models as names
from recserve_client.contract.models import Tensor
from recserve_server_ext.encoder_manifest import EncoderManifest
from recserve_server_ext.encoder_target import ServedEncoder, served_encoder
from recserve_server_ext.errors import ConfigError
from recserve_server_ext.settings import ModelSettings

_DATATYPES = {"BYTES": pb.TYPE_STRING, "INT64": pb.TYPE_INT64, "FP32": pb.TYPE_FP32}


@dataclass(frozen=True, kw_only=True)
class PythonModel:
    """A model of the Python backend, on the CPU, in one process.

    Attributes:
        name: Of the model and its folder.
        inputs: Shapes without the batch dimension where `max_batch` is positive.
        outputs: Likewise.
        max_batch: Rows of one batch; 0 = no batching.
        settings: JSON handed to the model.
    """

    name: str
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

    def proto(self) -> pb.ModelConfig:
        """The configuration as protobuf."""
        config = pb.ModelConfig(name=self.name, platform="ensemble", max_batch_size=0)
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


def all_models(settings: ModelSettings, encoder: Path, manifest: EncoderManifest) -> list[Model]:
    """Every model that is served, each after those it asks.

    Args:
        settings: Handed to the Python models; made to fit by `recserve_server_ext.encoder_target.fitted`.
        encoder: Folder of the encoder.
        manifest: What it holds.

    Raises:
        EncoderError: The target of the encoder was not exported.
    """
    serve, dim = settings.serve, manifest.dim
    handed = msgspec.json.encode(settings).decode()
    width = manifest.max_tokens if serve.encoder.target == "embedded" else -1
    tokens = tuple(tensor._replace(shape=(width,)) for tensor in (names.INPUT_IDS, names.ATTENTION_MASK))

    def model(name: str, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], max_batch: int) -> PythonModel:
        return PythonModel(name=name, inputs=inputs, outputs=outputs, max_batch=max_batch, settings=handed)

    return [
        served_encoder(encoder, manifest, serve, handed),
        model(names.RECOMMEND, (names.REQUEST,), (names.RESPONSE,), serve.batch),
        model(names.EMBED, (names.REQUEST,), (names.RESPONSE,), serve.batch),
        *([model(names.ITEMS, (names.REQUEST,), (names.RESPONSE,), serve.batch)] if settings.store else []),
        model(names.INTERACTIONS, (names.REQUEST,), (names.RESPONSE,), serve.batch),
        model(
            names.TOKENIZE,
            (_row(names.REQUEST, 1),),
            (*(_row(tensor, -1) for tensor in tokens), _row(names.REQUEST_ROWS, -1)),
            0,
        ),
        model(names.POOL, (names.REQUEST_ROWS, names.vector(dim)), (names.PACKED,), serve.encoder_batch),
        _recommend_text(),
    ]


def _recommend_text() -> Ensemble:
    ids, mask, rows = names.INPUT_IDS.name, names.ATTENTION_MASK.name, names.REQUEST_ROWS.name
    request, response, packed = names.REQUEST.name, names.RESPONSE.name, names.PACKED.name
    return Ensemble(
        name=names.RECOMMEND_TEXT,
        inputs=(_row(names.REQUEST, 1),),
        outputs=(_row(names.RESPONSE, 1),),
        steps=(
            Step(model=names.TOKENIZE, inputs={request: request}, outputs={ids: ids, mask: mask, rows: rows}),
            Step(model=names.ENCODER, inputs={ids: ids, mask: mask}, outputs={names.VECTOR: names.VECTOR}),
            Step(model=names.POOL, inputs={rows: rows, names.VECTOR: names.VECTOR}, outputs={packed: packed}),
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
