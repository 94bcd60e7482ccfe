"""The token table in int8, by rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from recserve_export.encoder.quantise.token_table import quantise_token_table

IDS = np.array([[3, 0, 7], [7, 7, 1]], np.int64)


def lookup(*others: Any) -> Any:
    """Token ids -> rows of a table, and nodes that follow; one row is all zeros."""
    table = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    table[1] = 0
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["found"], name="embeddings"), *others],
        "lookup",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("found", TensorProto.FLOAT, ["batch", "sequence", 6])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_rows_come_back_within_half_a_step() -> None:
    model = lookup()
    (before,) = ReferenceEvaluator(model).run(["found"], {"input_ids": IDS})
    quantise_token_table(model)
    onnx.checker.check_model(model)
    (after,) = ReferenceEvaluator(model).run(["found"], {"input_ids": IDS})
    steps = np.abs(before).max(-1, keepdims=True) / 127
    assert (np.abs(after - before) <= steps / 2 + 1e-6).all()
    assert not after[1, 2].any()
    kinds = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert kinds == {"table_rows_int8": TensorProto.INT8, "table_row_scales": TensorProto.FLOAT}


def test_a_table_that_is_read_in_another_way_stays() -> None:
    model = lookup(helper.make_node("Transpose", ["table"], ["turned"]))
    quantise_token_table(model)
    assert [tensor.name for tensor in model.graph.initializer] == ["table"]
    assert [node.op_type for node in model.graph.node] == ["Gather", "Transpose"]
