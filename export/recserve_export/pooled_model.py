"""A transformers model with pooling and L2 normalisation behind it, and its way to ONNX through optimum."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import optimum.exporters.onnx.model_configs  # noqa: F401 (registers the architectures with TasksManager)
import torch
from numpy.typing import NDArray
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager
from tokenizers.normalizers import Lowercase, Sequence
from torch import nn
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from recserve_export.encoder_source import EncoderSource, Pooling
from recserve_export.errors import EncoderSourceError

Vectors = NDArray[np.float32]

_TASK: Final = "feature-extraction"
_AXES: Final = {0: "batch", 1: "sequence"}


class PooledModel(nn.Module):  # type: ignore[misc]  # torch publishes its types, but they are skipped for speed
    """Token ids and mask -> unit vectors, as the graph computes them."""

    def __init__(self, model: Any, pooling: Pooling) -> None:
        """Wrap a model.

        Args:
            model: Of transformers, giving `last_hidden_state` [batch, sequence, dim].
            pooling: How token vectors become one.
        """
        super().__init__()
        self.model = model
        self.config = model.config  # optimum reads it
        self.pooling = pooling

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`vector` [batch, dim] from ids and mask [batch, sequence], int64; the mask is 0 for padding."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return {"vector": nn.functional.normalize(pooled, dim=-1)}


def load_model(source: EncoderSource, *, eager: bool) -> Any:
    """The transformers model of a source, in float32, for inference.

    Args:
        source: Where it is.
        eager: Whether attention is written out as plain matrix products; else what transformers prefers.

    Raises:
        EncoderSourceError: transformers cannot load it, or weights are missing in the file.
    """
    options = {"attn_implementation": "eager"} if eager else {}
    try:
        with _no_bars():
            model, loading = AutoModel.from_pretrained(
                source.folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
            )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError and others
        raise EncoderSourceError(f"transformers cannot load {source.folder}: {_first_line(error)}") from error
    # transformers fills weights that are missing with random numbers; only its pooler, which is not used, may be.
    missing = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise EncoderSourceError(
            f"{source.weights[0]} lacks {len(missing)} weights that config.json asks for, such as {missing[0]}"
        )
    return model.float().eval()


def load_tokenizer(source: EncoderSource) -> Any:
    """The fast tokenizer of a source.

    Raises:
        EncoderSourceError: transformers cannot load it, or there is no fast one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.folder, local_files_only=True, use_fast=True)
    except Exception as error:  # see load_model
        raise EncoderSourceError(
            f"transformers cannot load the tokenizer of {source.folder}: {_first_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise EncoderSourceError(f"{source.folder} has no fast tokenizer; save it with a tokenizer.json")
    return tokenizer


def write_tokenizer(source: EncoderSource, path: Path, vocabulary: int) -> None:
    """Write `tokenizer.json`: no padding, truncated to the source's `max_tokens`.

    Args:
        source: Where the tokenizer is.
        path: File to write.
        vocabulary: Token ids that the model knows.

    Raises:
        EncoderSourceError: The tokenizer cannot be loaded, or gives ids that the model does not know.
    """
    tokenizer = load_tokenizer(source).backend_tokenizer
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > vocabulary:
        raise EncoderSourceError(
            f"the tokenizer of {source.folder} has {size} tokens, the model knows {vocabulary}; "
            "they do not belong together"
        )
    if source.lowercase:
        tokenizer.normalizer = Sequence([Lowercase(), *([tokenizer.normalizer] if tokenizer.normalizer else [])])
    tokenizer.no_padding()
    tokenizer.enable_truncation(source.max_tokens)
    tokenizer.save(str(path))


def write_onnx(source: EncoderSource, path: Path) -> int:
    """Export a source to ONNX, float32, pooling and normalisation inside.

    The graph takes `input_ids` and `attention_mask` [batch, sequence], int64, and gives `vector` [batch, dim].

    Args:
        source: What to export.
        path: File to write.

    Returns:
        Number of token ids that the model knows.

    Raises:
        EncoderSourceError: The model cannot be loaded, or optimum knows no export of its architecture.
    """
    model = load_model(source, eager=True)
    kind = model.config.model_type
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model_type=kind, task=_TASK, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise EncoderSourceError(f"optimum knows no ONNX export of the architecture {kind}") from error
    config = _graph_config(constructor.func)(model.config, task=_TASK)
    try:
        export(PooledModel(model, source.pooling), config, path)
    except Exception as error:  # torch and optimum raise many kinds
        raise EncoderSourceError(f"the architecture {kind} cannot be exported: {_first_line(error)}") from error
    _name_dim(path, model.config.hidden_size)
    return int(model.config.vocab_size)


def reference_vectors(source: EncoderSource, texts: list[str], *, batch: int = 16) -> Iterator[Vectors]:
    """Unit vectors by plain PyTorch and transformers, sharing no code with the graph: [up to `batch`, dim] each.

    The tokenizer pads and truncates, attention is what transformers prefers, each text is pooled by itself.
    """
    tokenizer, model = load_tokenizer(source), load_model(source, eager=False)
    for start in range(0, len(texts), batch):
        rows = [text.lower() if source.lowercase else text for text in texts[start : start + batch]]
        tokens = tokenizer(rows, padding=True, truncation=True, max_length=source.max_tokens, return_tensors="pt")
        with torch.inference_mode():
            # No token types: one text has only zeros, and some models (DistilBERT) take none.
            inputs = {name: tokens[name] for name in ("input_ids", "attention_mask")}
            hidden = model(**inputs).last_hidden_state.numpy()
        lengths = tokens["attention_mask"].sum(1).tolist()
        pooled = [
            row[0] if source.pooling == "cls" else row[:length].mean(0)
            for row, length in zip(hidden, lengths, strict=True)
        ]
        yield np.stack([row / np.linalg.norm(row) for row in pooled]).astype(np.float32)


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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
