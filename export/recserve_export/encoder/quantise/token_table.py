"""Token table in int8: the embeddings of the token ids with one scale for each row.

A large vocabulary is most of a small encoder: 250,000 rows of 384 are 384 MB in float32, and every process that serves
it holds them. A row that is looked up becomes scale * int8 row, so a text's vector still depends on no other text.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from onnx import TensorProto, helper, numpy_helper

#: Input of every exported graph.
_IDS: Final = "input_ids"
_LEVELS: Final = 127


def quantise_token_table(model: Any) -> None:
    """Replace the lookups of token ids in float32 tables by lookups in int8, in place.

    A table that is read in another way too, such as by a product with its transpose, stays as it is.
    """
    tables = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    readers = [(node, name) for node in model.graph.node for name in node.input if name in tables]
    lookups = {name for node, name in readers if _is_lookup(node) and node.input[0] == name}
    lookups -= {name for node, name in readers if not _is_lookup(node)}
    nodes: list[Any] = []
    for node in model.graph.node:
        nodes += _scaled(node) if _is_lookup(node) and node.input[0] in lookups else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for name in lookups:
        rows = numpy_helper.to_array(tables[name])
        scales = np.abs(rows).max(axis=1, keepdims=True) / np.float32(_LEVELS)
        scales[scales == 0] = 1
        steps = np.rint(rows / scales).astype(np.int8)
        model.graph.initializer.remove(tables[name])
        model.graph.initializer.append(numpy_helper.from_array(steps, f"{name}_rows_int8"))
        model.graph.initializer.append(numpy_helper.from_array(scales, f"{name}_row_scales"))


def _is_lookup(node: Any) -> bool:
    """Whether a node takes the rows of the token ids from a matrix."""
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
    return node.op_type == "Gather" and node.input[1] == _IDS and axis == 0


def _scaled(node: Any) -> list[Any]:
    """The nodes that look rows up in int8 and multiply them by their scales."""
    table, found = node.input[0], node.output[0]
    return [
        helper.make_node("Gather", [f"{table}_rows_int8", _IDS], [f"{found}_int8"], name=f"{node.name}/rows"),
        helper.make_node("Cast", [f"{found}_int8"], [f"{found}_steps"], name=f"{node.name}/cast", to=TensorProto.FLOAT),
        helper.make_node("Gather", [f"{table}_row_scales", _IDS], [f"{found}_scales"], name=f"{node.name}/scales"),
        helper.make_node("Mul", [f"{found}_steps", f"{found}_scales"], [found], name=f"{node.name}/scale"),
    ]
