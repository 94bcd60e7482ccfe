"""int8: the rescaled graph computes the same, weights and tokens are what the formulas say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies
from onnx import TensorProto, helper, numpy_helper

from recserve_export.encoder.quantise import int8 as quantise
from recserve_export.encoder.quantise import products as int8_products
from recserve_export.encoder.quantise import smoothquant
from recserve_export.encoder.quantise import statistics as activation_statistics
from recserve_export.encoder.quantise.gptq import Gptq, RoundedWeight
from recserve_export.encoder.quantise.products import OneSided
from recserve_export.encoder.quantise.statistics import ActivationStatistics
from recserve_export.encoder.recipe import Int8Recipe
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.encoder.manifest import MODEL
from support.examples import examples


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
    @examples(30)
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
        smoothquant.smooth(model, smoothquant.weight_products(model), {"x": np.maximum(ranges, 1e-3), "r": ones}, alpha)
        onnx.checker.check_model(model)
        (after,) = ReferenceEvaluator(model).run(None, {"x": x})
        assert np.allclose(before, after, rtol=1e-3, atol=1e-3)

    def test_scales(self) -> None:
        activation = np.array([4, 9, 0, 5], np.float32)
        weight = np.array([1, 4, 3, 0], np.float32)
        assert smoothquant.channel_scales(activation, weight, 0.5).tolist() == [2, 1.5, 1, 1]

    def test_weights_behind_several_activations_are_left_alone(self) -> None:
        model = _two_layers(np.ones((4, 4), np.float32))
        assert smoothquant.weight_products(model) == {"x": ["W"], "r": ["V"]}
        model.graph.node[2].input[1] = "W"
        assert smoothquant.weight_products(model) == {}

    def test_seven_bits(self, tiny_home: Path, tmp_path: Path) -> None:
        for bits, largest in ((7, 63), (8, 127)):
            path = tmp_path / f"{bits}.onnx"
            calibration = [np.array([2, 7, 9, 3], np.int64)]
            recipe = Int8Recipe(alpha=0.7, weight_bits=bits, fp32_ffn_share=0)
            fp32 = tiny_home / "encoder" / "fp32" / MODEL
            quantise.write_int8(fp32, path, quantise.calibrated(fp32, calibration), recipe)
            weights = [
                numpy_helper.to_array(tensor).astype(np.int16)
                for tensor in onnx.load(path).graph.initializer
                if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 2
                if not tensor.name.endswith("_rows_int8")
            ]
            assert len(weights) == 12
            assert max(np.abs(weight).max() for weight in weights) == largest

    def test_ffn_outputs_of_the_first_layers_stay_fp32(self, tiny_home: Path, tmp_path: Path) -> None:
        fp32 = onnx.load(tiny_home / "encoder" / "fp32" / MODEL)
        outputs = quantise.ffn_outputs(fp32)
        makers = {name: node.op_type for node in fp32.graph.node for name in node.output}
        behind_gelu = [node.name for node in fp32.graph.node if makers.get([*node.input, ""][0]) == "Gelu"]
        assert len(outputs) == 2  # layers
        assert outputs == behind_gelu
        for share, left in ((0.0, 0), (0.5, 1), (1.0, 2)):
            path = tmp_path / "int8.onnx"
            recipe = Int8Recipe(alpha=0.7, weight_bits=7, fp32_ffn_share=share)
            calibration = [np.array([2, 7, 9, 3], np.int64)]
            statistics = quantise.calibrated(tiny_home / "encoder" / "fp32" / MODEL, calibration)
            quantise.write_int8(tiny_home / "encoder" / "fp32" / MODEL, path, statistics, recipe)
            nodes = onnx.load(path).graph.node
            assert [node.name for node in nodes if node.name in outputs] == outputs[:left]
            assert sum(node.op_type == "MatMulIntegerToFloat" for node in nodes) == 12 - left

    def test_a_weight_that_also_stays_fp32_is_not_rescaled(self) -> None:
        model = _two_layers(np.ones((4, 4), np.float32))
        assert smoothquant.weight_products(model, ["second"]) == {"x": ["W"]}
        model.graph.node[2].input[1] = "W"
        assert smoothquant.weight_products(model, ["second"]) == {}


class TestInt8Products:
    @examples(30)
    @given(
        x=numpy_strategies.arrays(np.float32, (5, 4), elements=st.floats(-100, 100, width=32)),
        # 8-bit products saturate on a CPU without int8 dot products, which is why the export writes 7 there.
        bits=st.sampled_from([7, 8] if cpu.has_int8_dot_product() else [7]),
        seed=st.integers(0, 99),
    )
    def test_equals_the_formula(self, x: np.ndarray[Any, Any], bits: int, seed: int) -> None:
        weight = np.random.default_rng(seed).normal(size=(4, 6)).astype(np.float32)
        levels = 2 ** (bits - 1) - 1
        scales = np.abs(weight).max(0) / levels
        largest = np.maximum(np.abs(x).max(1, keepdims=True), 1e-30)
        tokens = np.rint(x.astype(np.float64) / largest * 127)
        expected = largest / 127 * (tokens @ np.rint(weight / scales)) * scales
        # A number halfway between two steps may be rounded the other way: by one step, which is worth this much.
        step = largest / 127 * np.abs(weight).max()
        assert (np.abs(_first_product(weight, x, bits) - expected) <= 1e-4 * largest + 4 * step).all()
        assert (
            np.abs(_first_product(weight, x, bits) - x @ weight).max() <= 0.06 * np.abs(x).max() * np.abs(weight).sum()
        )

    def test_a_token_has_the_same_bits_beside_any_other(self) -> None:
        rng = np.random.default_rng(1)
        weight, x = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=(5, 4)).astype(np.float32)
        others = x * np.array([[1], [1000], [0], [1e-20], [1]], np.float32)
        assert np.array_equal(_first_product(weight, x, 8)[[0, 4]], _first_product(weight, others, 8)[[0, 4]])

    def test_a_weight_and_an_activation_are_quantised_once(self) -> None:
        model = _two_layers(np.ones((4, 4), np.float32))
        model.graph.node[2].input[:] = ["x", "W"]
        int8_products.quantise_products(model, {"W": _nearest(np.ones((4, 4), np.float32), 8)})
        kinds = [node.op_type for node in model.graph.node]
        assert (kinds.count("QuantizeLinear"), kinds.count("MatMulIntegerToFloat")) == (1, 2)
        assert [list(tensor.dims) for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8] == [
            [4, 4],
            [4],
        ]


class TestOneSided:
    def test_behind_a_gelu_but_not_around_zero(self) -> None:
        tops = [np.linspace(1, 3, 50, dtype=np.float32)]
        gelu = ActivationStatistics(np.ones(4, np.float32), np.eye(4), tops, -0.17)
        bounds = int8_products.one_sided(gelu)
        assert bounds is not None
        assert bounds.zero == 35  # 255 * .17 / (1.1 + .17), rounded up
        assert int8_products.one_sided(replace(gelu, low=-1.0)) is None
        assert int8_products.one_sided(replace(gelu, tops=[])) is None
        assert int8_products.one_sided(replace(gelu, tops=[np.zeros(3, np.float32)], low=0.0)) is None

    @examples(30)
    @given(
        x=numpy_strategies.arrays(np.float32, (5, 4), elements=st.floats(-0.125, 100, width=32)),
        low=st.sampled_from([0.0, -0.125]),
        high=st.floats(0.5, 4),
    )
    def test_a_token_is_off_by_half_a_step(self, x: np.ndarray[Any, Any], low: float, high: float) -> None:
        x = np.maximum(x, np.float32(low))
        bounds = OneSided(low, high)
        steps = np.maximum(x.max(1, keepdims=True), bounds.least_top) / (255 - bounds.zero)
        # A weight of ones and zeros is exact in int8: what comes out is the quantised token.
        product = _first_product(np.eye(4, 6, dtype=np.float32), x, 7, bounds)
        assert (np.abs(product[:, :4] - x) <= 0.501 * steps + 1e-5 * np.abs(x)).all()

    def test_has_the_same_bits_beside_any_other(self) -> None:
        rng = np.random.default_rng(1)
        weight, x = rng.normal(size=(4, 6)).astype(np.float32), np.abs(rng.normal(size=(5, 4))).astype(np.float32)
        others = x * np.array([[1], [1000], [0], [1e-20], [1]], np.float32)
        bounds = OneSided(-0.17, 1.0)
        mine, theirs = (_first_product(weight, one, 7, bounds)[[0, 4]] for one in (x, others))
        assert np.array_equal(mine, theirs)


class TestCompensatedRounding:
    @pytest.mark.parametrize("bits", [7, 8])
    def test_without_correlation_it_is_the_nearest_step(self, bits: int) -> None:
        weight = np.random.default_rng(0).normal(size=(200, 30)).astype(np.float32)
        rounded = Gptq(np.diag(np.linspace(1, 2, 200))).rounded(weight, bits)
        levels = 2 ** (bits - 1) - 1
        assert np.allclose(rounded.scales, np.abs(weight).max(0) / levels)
        assert np.array_equal(rounded.steps, np.rint(weight / rounded.scales))

    @pytest.mark.parametrize("inputs", [20, 200])  # within a block, and over several
    def test_outputs_are_off_by_less_where_inputs_go_together(self, inputs: int) -> None:
        rng = np.random.default_rng(2)
        x = rng.normal(size=(1000, inputs // 4)) @ rng.normal(size=(inputs // 4, inputs))
        x += 0.1 * rng.normal(size=x.shape)
        weight = rng.normal(size=(inputs, 30)).astype(np.float32)

        def error(rounded: RoundedWeight) -> float:
            assert np.abs(rounded.steps).max() == 63
            return float(np.square(x @ (rounded.steps * rounded.scales - weight)).sum())

        # Measured: .06 and .09 of the error.
        moments = np.asarray(x.T @ x, np.float64)
        assert error(Gptq(moments).rounded(weight, 7)) < 0.15 * error(_nearest(weight, 7))

    def test_inputs_and_weights_that_are_always_zero(self) -> None:
        weight = np.zeros((4, 3), np.float32)
        weight[1, 1] = 2
        for first in (0.0, 1.0):
            moments: Floats = np.zeros((4, 4))
            moments[0, 0] = first
            rounded = Gptq(moments).rounded(weight, 8)
            assert np.array_equal(rounded.steps * rounded.scales, weight)


def test_statistics_are_the_same_in_one_pass_and_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _token_layers()
    texts = [np.array([1, 2, 3], np.int64), np.array([4, 0], np.int64)]
    passed: list[int] = []
    whole = activation_statistics.activation_statistics(model, {"x": 4, "r": 6}, texts, passed.append)
    monkeypatch.setattr(activation_statistics, "_MOMENT_BYTES", 1)
    parts = activation_statistics.activation_statistics(model, {"x": 4, "r": 6}, texts, passed.append)
    assert passed == [1, 1, 1, 1]
    tokens = numpy_helper.to_array(model.graph.initializer[0])[np.concatenate(texts)].astype(np.float64)
    assert np.allclose(whole["x"].moments, tokens.T @ tokens)
    assert np.allclose(np.concatenate(whole["x"].tops), tokens.max(1))
    assert whole["x"].low == tokens.min()
    assert np.allclose(whole["x"].largest, np.abs(tokens).max(0))
    for name in ("x", "r"):
        assert np.array_equal(whole[name].moments, parts[name].moments)


def _token_layers() -> Any:
    """Token ids -> rows of a table -> `_two_layers`."""
    rng = np.random.default_rng(3)
    model = _two_layers(rng.normal(size=(4, 6)).astype(np.float32))
    del model.graph.input[:]
    model.graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.INT64, [1, "n"]) for name in ("input_ids", "attention_mask")
    )
    model.graph.initializer.insert(0, numpy_helper.from_array(rng.normal(size=(5, 4)).astype(np.float32), "table"))
    model.graph.node.insert(0, helper.make_node("Gather", ["table", "input_ids"], ["x"]))
    model.graph.output[0].type.tensor_type.shape.CopyFrom(
        helper.make_tensor_type_proto(TensorProto.FLOAT, [1, "n", 4]).tensor_type.shape
    )
    return model


def _nearest(weight: np.ndarray[Any, Any], bits: int) -> RoundedWeight:
    """Every weight at its nearest step."""
    return Gptq(np.eye(len(weight))).rounded(weight, bits)


def _first_product(
    weight: np.ndarray[Any, Any], x: np.ndarray[Any, Any], bits: int, bounds: OneSided | None = None
) -> np.ndarray[Any, Any]:
    """x W in int8, run by onnxruntime."""
    model = _two_layers(weight)
    weights = {"W": _nearest(weight, bits)}
    int8_products.quantise_products(model, weights, bounds={"x": bounds} if bounds else {})
    model.graph.output.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, ["n", weight.shape[1]]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    product: np.ndarray[Any, Any] = session.run(["h"], {"x": x})[0]
    return product
