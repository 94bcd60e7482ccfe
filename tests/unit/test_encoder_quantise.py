"""SmoothQuant: the rescaled graph computes the same, and the weights have the bits asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from onnx import TensorProto, helper, numpy_helper

from recserve_export import quantise
from recserve_export.encoder_recipe import Int8Recipe
from recserve_server_ext.encoder_manifest import MODEL


def _two_layers(weight: np.ndarray[Any, Any]) -> Any:
    """x -> relu(x W) W': W' has a product of its own, W stands behind one activation."""
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "V"], ["y"], name="second"),
    ]
    initializers = [numpy_helper.from_array(weight, "W"), numpy_helper.from_array(weight.T.copy(), "V")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", weight.shape[0]])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


class TestSmoothQuant:
    @settings(max_examples=30, deadline=None)
    @given(
        ranges=numpy_strategies.arrays(np.float32, 4, elements=st.floats(0, 100, width=32)),
        alpha=st.floats(0, 1),
        seed=st.integers(0, 99),
    )
    def test_the_graph_computes_the_same(self, ranges: np.ndarray[Any, Any], alpha: float, seed: int) -> None:
        from onnx.reference import ReferenceEvaluator

        rng = np.random.default_rng(seed)
        model = _two_layers(rng.normal(size=(4, 6)).astype(np.float32))
        x = rng.normal(size=(5, 4)).astype(np.float32)
        (before,) = ReferenceEvaluator(model).run(None, {"x": x})
        ones = np.ones(6, np.float32)
        quantise.smooth(model, quantise.weight_products(model), {"x": np.maximum(ranges, 1e-3), "r": ones}, alpha)
        onnx.checker.check_model(model)
        (after,) = ReferenceEvaluator(model).run(None, {"x": x})
        assert np.allclose(before, after, rtol=1e-3, atol=1e-3)

    def test_scales(self) -> None:
        activation = np.array([4, 9, 0, 5], np.float32)
        weight = np.array([1, 4, 3, 0], np.float32)
        assert quantise.channel_scales(activation, weight, 0.5).tolist() == [2, 1.5, 1, 1]

    def test_weights_behind_several_activations_are_left_alone(self) -> None:
        model = _two_layers(np.ones((4, 4), np.float32))
        assert quantise.weight_products(model) == {"x": ["W"], "r": ["V"]}
        model.graph.node[2].input[1] = "W"
        assert quantise.weight_products(model) == {}

    def test_seven_bits(self, tiny_home: Path, tmp_path: Path) -> None:
        for bits, largest in ((7, 64), (8, 127)):
            path = tmp_path / f"{bits}.onnx"
            calibration = [np.array([2, 7, 9, 3], np.int64)]
            recipe = Int8Recipe(alpha=0.7, weight_bits=bits, fp32_ffn_share=0)
            quantise.write_int8(tiny_home / "encoder" / "fp32" / MODEL, path, calibration, recipe)
            weights = [
                numpy_helper.to_array(tensor).astype(np.int16)
                for tensor in onnx.load(path).graph.initializer
                if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
            ]
            assert len(weights) == 12
            assert largest - 1 <= max(np.abs(weight).max() for weight in weights) <= largest

    def test_ffn_outputs_of_the_first_layers_stay_fp32(self, tiny_home: Path, tmp_path: Path) -> None:
        fp32 = onnx.load(tiny_home / "encoder" / "fp32" / MODEL)
        outputs = quantise.ffn_outputs(fp32)
        assert [name.split("layer.")[1] for name in outputs] == ["0/output/dense/MatMul", "1/output/dense/MatMul"]
        for share, left in ((0.0, 0), (0.5, 1), (1.0, 2)):
            path = tmp_path / "int8.onnx"
            recipe = Int8Recipe(alpha=0.7, weight_bits=7, fp32_ffn_share=share)
            calibration = [np.array([2, 7, 9, 3], np.int64)]
            quantise.write_int8(tiny_home / "encoder" / "fp32" / MODEL, path, calibration, recipe)
            nodes = onnx.load(path).graph.node
            assert [node.name for node in nodes if node.name in outputs] == outputs[:left]
            assert sum(node.op_type == "MatMulInteger" for node in nodes) == 12 - left

    def test_a_weight_that_also_stays_fp32_is_not_rescaled(self) -> None:
        model = _two_layers(np.ones((4, 4), np.float32))
        assert quantise.weight_products(model, ["second"]) == {"x": ["W"]}
        model.graph.node[2].input[1] = "W"
        assert quantise.weight_products(model, ["second"]) == {}
