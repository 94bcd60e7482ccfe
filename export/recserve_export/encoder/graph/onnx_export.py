"""ONNX export of a transformers model through optimum, with pooling and L2 normalisation inside the graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import onnx
import optimum.exporters.onnx.model_configs  # noqa: F401 (registers the architectures with TasksManager)
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from recserve_export.encoder.graph.pooling import PooledModel
from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.encoder.source.sentence_modules import CONFIG, read_object
from recserve_export.errors import EncoderSourceError, first_line

#: Architectures whose export is tested, by transformers' `model_type`; optimum knows more.
TESTED: Final = (
    "bert",
    "roberta",
    "xlm-roberta",
    "mpnet",
    "distilbert",
    "electra",
    "albert",
    "deberta-v2",
    "modernbert",
    "gpt2",
    "llama",
    "qwen2",
)

_TASK: Final = "feature-extraction"
_AXES: Final = {0: "batch", 1: "sequence"}
#: A protobuf holds 2 GB; this much is left to the graph.
_MOST_WEIGHT_BYTES: Final = 2**31 - 2**24


def load_model(source: EncoderSource, *, eager: bool) -> Any:
    """The transformers model of a source, in float32, for inference.

    `eager` writes attention out as plain matrix products; otherwise it is what transformers prefers.

    Raises:
        EncoderSourceError: transformers cannot load it, or weights are missing in the file.
    """
    _check_architecture(source)
    options = {"attn_implementation": "eager"} if eager else {}
    try:
        with _no_bars():
            model, loading = AutoModel.from_pretrained(
                source.model_folder,
                local_files_only=True,
                use_safetensors=source.weights[0].suffix == ".safetensors",
                trust_remote_code=source.options.trust_remote_code,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError and others
        raise EncoderSourceError(f"transformers cannot load {source.model_folder}: {first_line(error)}") from error
    # transformers fills weights that are missing with random numbers; only its pooler, which is not used, may be.
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderSourceError(
            f"{source.weights[0]} lacks {len(missing)} weights that config.json asks for, such as {missing[0]}"
        )
    model.config.use_cache = False  # a decoder's keys and values are for generating text
    return model.float().eval()


def write_onnx(source: EncoderSource, path: Path) -> int:
    """Write the ONNX file of a source in float32; returns the number of token ids that the model knows.

    The graph takes `input_ids` and `attention_mask` [batch, sequence], int64, and gives `vector` [batch, dim].

    Raises:
        EncoderSourceError: The model cannot be loaded, or optimum knows no export of its architecture.
    """
    model = load_model(source, eager=True)
    kind = model.config.model_type
    _check_size(model, source)
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model_type=kind, task=_TASK, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise EncoderSourceError(
            f"optimum knows no ONNX export of the architecture {kind}; {_nearest(kind)}"
        ) from error
    config = _graph_config(constructor.func)(model.config, task=_TASK)
    pooled = PooledModel(model, source)
    try:
        export(pooled, config, path)
    except OSError:  # a full disk says nothing about the architecture
        raise
    except Exception as error:  # torch and optimum raise many kinds
        raise EncoderSourceError(
            f"the architecture {kind} cannot be exported: {first_line(error)}; {_nearest(kind)}"
        ) from error
    _name_dim(path, pooled.dim)
    return int(model.config.vocab_size)


def _check_size(model: Any, source: EncoderSource) -> None:
    size = sum(weight.numel() for weight in model.parameters()) * 4
    if size > _MOST_WEIGHT_BYTES:
        raise EncoderSourceError(
            f"{source.name} has {size / 1e9:.1f} GB of weights in float32; one ONNX file holds 2 GB; take a smaller one"
        )


def _check_architecture(source: EncoderSource) -> None:
    """Refuse what transformers does not know, and encoder-decoder models, before it says so in many lines."""
    kind = read_object(source.model_folder / CONFIG).get("model_type")
    if source.options.trust_remote_code:
        return
    if kind not in CONFIG_MAPPING:
        raise EncoderSourceError(
            f"{source.model_folder / CONFIG}: transformers knows no architecture {kind}; {_nearest(str(kind))}"
        )
    try:
        config = AutoConfig.from_pretrained(source.model_folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # see load_model
        raise EncoderSourceError(f"transformers cannot load {source.model_folder}: {first_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise EncoderSourceError(f"{kind} has an encoder and a decoder, which is not supported; {_nearest(str(kind))}")


def _nearest(kind: str) -> str:
    near = difflib.get_close_matches(kind, TESTED, n=1, cutoff=0)[0]
    return f"supported are {', '.join(TESTED)} (nearest by name: {near})"


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the progress bars of transformers."""
    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _graph_config(base: Any) -> Any:
    """The architecture's configuration of optimum (opset, patches), with the inputs and output of `PooledModel`."""
    names = {"input_ids": _AXES, "attention_mask": _AXES}
    members = {"inputs": property(lambda _: names), "outputs": property(lambda _: {"vector": {0: "batch"}})}
    return type(f"Pooled{base.__name__}", (base,), members)


def _name_dim(path: Path, dim: int) -> None:
    """Say the vector's length in the graph's signature, where torch leaves a name for it."""
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = dim
    onnx.checker.check_model(model)
    onnx.save(model, path)
