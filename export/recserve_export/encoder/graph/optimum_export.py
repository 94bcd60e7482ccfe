"""ONNX export by optimum, which holds a configuration of each architecture it knows: opset, patches, inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import optimum.exporters.onnx.model_configs  # noqa: F401 (registers the architectures with TasksManager)
from optimum.exporters.onnx import export
from optimum.exporters.tasks import TasksManager

from recserve_export.encoder.graph.axes import AXES
from recserve_export.encoder.graph.loading import nearest
from recserve_export.encoder.graph.pooling import PooledModel
from recserve_export.errors import EncoderSourceError

_TASK: Final = "feature-extraction"


def export_by_optimum(pooled: PooledModel, path: Path) -> None:
    """Write the ONNX file of a model.

    Raises:
        EncoderSourceError: optimum knows no export of its architecture.
    """
    kind = pooled.config.model_type
    try:
        constructor = TasksManager.get_exporter_config_constructor(
            exporter="onnx", model_type=kind, task=_TASK, library_name="transformers"
        )
    except (KeyError, ValueError) as error:
        raise EncoderSourceError(f"optimum knows no ONNX export of the architecture {kind}; {nearest(kind)}") from error
    export(pooled, _graph_config(constructor.func)(pooled.config, task=_TASK), path)


def _graph_config(base: Any) -> Any:
    """The architecture's configuration of optimum, with the inputs and output of `PooledModel`."""
    names = {"input_ids": AXES, "attention_mask": AXES}
    members = {"inputs": property(lambda _: names), "outputs": property(lambda _: {"vector": {0: "batch"}})}
    return type(f"Pooled{base.__name__}", (base,), members)
