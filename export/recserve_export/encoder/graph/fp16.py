"""fp16 graph for GPUs: weights and layers in half precision, pooling and normalisation in fp32."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import onnx
from onnx import TensorProto
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

#: Where the walk from the output back to the last layer ends.
_LAYERS: Final = ("MatMul", "Gemm", "LayerNormalization", "SimplifiedLayerNormalization")


def write_fp16(fp32: Path, fp16: Path) -> None:
    """Write a graph in half precision; its inputs and output keep their types.

    What stands behind the last matrix product or layer norm (pooling, the last sums, L2 normalisation) stays fp32: a
    sum of squares over many elements leaves the range and the precision of fp16 first, and costs nothing there.
    """
    model = onnx.load(fp32)
    kept = behind_layers(model)
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(kept))
    _drop_round_trips(converted.graph, kept)
    # The converter's casts stand at the end of the graph.
    OnnxModel.graph_topological_sort(converted.graph, is_deterministic=True)
    onnx.checker.check_model(converted)
    onnx.save(converted, fp16)


def _drop_round_trips(graph: Any, kept: Collection[str]) -> None:
    """Undo the casts to fp16 and back between two nodes that stay fp32, which would round what is between them."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        half = makers.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if half is None or not _casts_to(half, TensorProto.FLOAT16):
            continue
        maker = makers.get(half.input[0])
        if maker is not None and maker.name in kept:
            node.op_type, node.input[0] = "Identity", half.input[0]
            del node.attribute[:]
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in [one for one in graph.node if one.op_type == "Cast" and not used.intersection(one.output)]:
        graph.node.remove(node)


def _casts_to(node: Any, kind: int) -> bool:
    return node.op_type == "Cast" and any(one.name == "to" and one.i == kind for one in node.attribute)


def behind_layers(model: Any) -> set[str]:
    """Names of the nodes between the last layer and the output."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found: set[str] = set()
    waiting = [output.name for output in model.graph.output]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.name in found or node.op_type in _LAYERS:
            continue
        found.add(node.name)
        waiting += node.input
    return found
