"""fp32 graph -> fp16 for GPUs: weights and layers in half precision, pooling and normalisation as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime.transformers.float16 import convert_float_to_float16

#: Where the walk from the output back to the last layer ends.
_LAYERS: Final = ("MatMul", "Gemm", "LayerNormalization", "SimplifiedLayerNormalization")


def write_fp16(fp32: Path, fp16: Path) -> None:
    """Write a graph in half precision; its inputs and output keep their types.

    What stands behind the last matrix product or layer norm (pooling, the last sums, L2 normalisation) stays fp32: a sum
    of squares over many elements leaves the range and the precision of fp16 first, and costs nothing there.

    Args:
        fp32: File to read.
        fp16: File to write.
    """
    model = onnx.load(fp32)
    converted = convert_float_to_float16(model, keep_io_types=True, node_block_list=sorted(behind_layers(model)))
    onnx.checker.check_model(converted)
    onnx.save(converted, fp16)


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
