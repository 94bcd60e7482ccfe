"""ONNX export of a source, with pooling and L2 normalisation inside the graph: by torch.export, or by optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx
import torch

from recserve_export.encoder.graph.axes import AXES
from recserve_export.encoder.graph.loading import load_model, nearest
from recserve_export.encoder.graph.pooling import PooledModel
from recserve_export.encoder.recipe import Exporter
from recserve_export.encoder.source.folder import EncoderSource
from recserve_export.errors import EncoderSourceError, first_line

#: The first with GELU as one operator, which onnxruntime fuses with the bias before it.
_OPSET: Final = 20


def write_onnx(source: EncoderSource, path: Path, exporter: Exporter = "torch") -> int:
    """Write the ONNX file of a source in float32; returns the number of token ids that the model knows.

    The graph takes `input_ids` and `attention_mask` [batch, sequence], int64, and gives `vector` [batch, dim].

    Raises:
        EncoderSourceError: The model cannot be loaded, or the exporter cannot trace its architecture.
    """
    pooled = PooledModel(load_model(source), source).eval()
    try:
        model = _by_torch(pooled) if exporter == "torch" else _by_optimum(pooled, path)
        onnx.checker.check_model(model)
        onnx.save(model, path)
    except (OSError, EncoderSourceError):  # a full disk says nothing about the architecture
        raise
    except Exception as error:  # torch and optimum raise many kinds
        kind = pooled.config.model_type
        raise EncoderSourceError(
            f"the architecture {kind} cannot be exported: {first_line(error)}; {nearest(kind)}"
        ) from error
    return int(pooled.config.vocab_size)


def _by_torch(pooled: PooledModel) -> Any:
    """The graph of torch.export, for any batch and length."""
    # Of no special size: torch.export takes a length of 1 for a constant.
    ids = torch.arange(16).reshape(2, 8)
    program = torch.onnx.export(
        pooled,
        kwargs={"input_ids": ids, "attention_mask": torch.ones_like(ids)},
        dynamo=True,
        dynamic_shapes={"input_ids": AXES, "attention_mask": AXES},
        output_names=["vector"],
        opset_version=_OPSET,
        external_data=False,
        verbose=False,
    )
    model = program.model_proto
    # Where in the source code a node comes from would make the file depend on where that lies.
    for node in model.graph.node:
        node.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    # With the shapes of all values onnxruntime fuses additions with layer norms, which takes longer on a CPU:
    # docs/decisions/029-export-by-torch.md.
    model.graph.ClearField("value_info")
    return model


def _by_optimum(pooled: PooledModel, path: Path) -> Any:
    """The graph of optimum's export, which torch traces with a configuration of each architecture."""
    try:
        from recserve_export.encoder.graph.optimum_export import export_by_optimum
    except ImportError as error:
        raise EncoderSourceError(
            f"--exporter optimum needs pip install 'recserve[optimum]': {first_line(error)}"
        ) from error
    export_by_optimum(pooled, path)
    model = onnx.load(path)
    # torch leaves a name for it.
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = pooled.dim
    return model
