"""int8 matrix products with one scale for each token and one for each output channel of the constant weights.

A token x, one row of the activations, becomes round(127 x / max|x|). So its numbers depend on no other token, and a
text's vector on no other text of its batch: the products are sums of integers. onnxruntime's own dynamic quantisation
takes one scale for a whole tensor: a text's vector then depends on its batch, and less of each token is kept.

The product is onnxruntime's `MatMulIntegerToFloat`, which applies one scale for all tokens. That of a token is applied
behind it: x W = max|x| / 127 * (q_x q_W) * s_W.

An activation that hardly goes below zero (behind GELU) is quantised with a zero of its own near the end of uint8. What
is above zero then has nearly twice as many levels as with a symmetric scale.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

import numpy as np
from onnx import helper, numpy_helper

from recserve_export.encoder.quantise.gptq import RoundedWeight
from recserve_export.encoder.quantise.statistics import ActivationStatistics

_CONTRIB: Final = "com.microsoft"
_TOKEN_LEVELS: Final = 127
#: Steps of uint8.
_LEVELS: Final = 255
#: uint8 stands for -127..127 with this for zero: AVX2 and VNNI multiply unsigned activations with signed weights.
_ZERO: Final = 128
#: From this opset on, ReduceMax takes its axes as an input.
_AXES_AS_INPUT: Final = 18

#: A token of zeros is divided by this.
_LEAST: Final = 1e-30
#: The least value of a one-sided activation is at most this part of the largest value of nearly every token.
_MOST_BELOW: Final = 1 / 3
#: Percentile of the tokens' largest values that stands for nearly every token.
_SMALL_TOKEN: Final = 5


class OneSided(NamedTuple):
    """Bounds of an activation that hardly goes below zero.

    Attributes:
        low: Least value, at most 0.
        high: Value that the largest of nearly every token exceeds.
    """

    low: float
    high: float

    @property
    def zero(self) -> int:
        """The uint8 that stands for zero: a token whose largest value is `high` just holds `low`."""
        return math.ceil(_LEVELS * -self.low / (self.high - self.low))

    @property
    def least_top(self) -> float:
        """The least that a token's largest value is taken for, so that `low` is held by every token's steps."""
        return max(-self.low / self.zero * (_LEVELS - self.zero) if self.zero else 0.0, _LEAST)


def one_sided(statistics: ActivationStatistics) -> OneSided | None:
    """The bounds of a one-sided activation; `None` for any other."""
    if not statistics.tops:
        return None
    high = float(np.percentile(np.concatenate(statistics.tops), _SMALL_TOKEN))
    return OneSided(statistics.low, high) if high > 0 and -statistics.low <= _MOST_BELOW * high else None


def matrices_of(model: Any) -> set[str]:
    """Names of the constant matrices of a graph."""
    return {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}


def weight_matmuls(model: Any, matrices: Collection[str]) -> list[Any]:
    """The MatMul nodes whose second input is one of these matrices."""
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def int8_inputs(model: Any, kept: Collection[str] = ()) -> dict[str, list[str]]:
    """Names of the constant matrices that each activation is multiplied with in int8; the nodes of `kept` stay fp32."""
    found: dict[str, list[str]] = defaultdict(list)
    for node in weight_matmuls(model, matrices_of(model)):
        if node.name not in kept and node.input[1] not in found[node.input[0]]:
            found[node.input[0]].append(node.input[1])
    return {activation: weights for activation, weights in found.items() if weights}


def quantise_products(
    model: Any,
    weights: Mapping[str, RoundedWeight],
    *,
    kept: Collection[str] = (),
    bounds: Mapping[str, OneSided] | None = None,
) -> None:
    """Replace the products with these rounded weights by int8 ones, in place.

    Args:
        model: The graph.
        weights: Every weight that is multiplied in int8, by name.
        kept: Names of nodes that stay fp32.
        bounds: One-sided activations, by name; all others are symmetric.
    """
    writer = _Writer(model, weights, bounds or {})
    nodes: list[Any] = []
    for node in model.graph.node:
        is_product = node.op_type == "MatMul" and node.input[1] in weights and node.name not in kept
        nodes += writer.product(node) if is_product else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in [*model.graph.initializer, *writer.tensors] if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    if all(opset.domain != _CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))


class _Writer:
    """Writes the nodes of int8 products; an activation or weight that several products share is quantised once.

    Attributes:
        tensors: Constants of the nodes that were written.
    """

    def __init__(self, model: Any, weights: Mapping[str, RoundedWeight], bounds: Mapping[str, OneSided]) -> None:
        self.tensors: list[Any] = []
        self._weights = weights
        self._bounds = bounds
        opsets = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
        self._axes_as_input = max(opsets) >= _AXES_AS_INPUT
        self._done: set[str] = set()
        self._one = self._constant("int8_one", np.float32(1))
        self._scale = self._constant("int8_token_scale", np.float32(1 / _TOKEN_LEVELS))
        self._zero = self._constant("int8_token_zero", np.uint8(_ZERO))
        self._least = self._constant("int8_least_max", np.float32(_LEAST))
        self._last_axis = self._constant("int8_last_axis", np.array([-1], np.int64))

    def product(self, node: Any) -> list[Any]:
        """The nodes in the place of a MatMul."""
        activation, weight = node.input
        scale, zero = self._scale, self._zero
        if activation in self._bounds:
            scale, zero = self._one, f"{activation}_zero"
        nodes = self._activation(activation, self._weights[weight].steps.shape[0])
        self._add_weight(weight)
        inputs = [f"{activation}_int8", f"{weight}_int8", scale, f"{weight}_scale", zero, f"{weight}_zero"]
        product = f"{node.output[0]}_of_unit_tokens"
        return [
            *nodes,
            helper.make_node("MatMulIntegerToFloat", inputs, [product], domain=_CONTRIB, name=f"{node.name}_int8"),
            helper.make_node("Mul", [product, f"{activation}_scale"], [node.output[0]], name=f"{node.name}_scaled"),
        ]

    def _activation(self, name: str, width: int) -> list[Any]:
        """Nodes that make `name`_int8, and `name`_scale [..., 1], by which a token's products are multiplied."""
        if name in self._done:
            return []
        self._done.add(name)
        return self._one_sided(name, width, self._bounds[name]) if name in self._bounds else self._symmetric(name)

    def _symmetric(self, name: str) -> list[Any]:
        return [
            helper.make_node("Abs", [name], [f"{name}_abs"]),
            self._largest(f"{name}_abs", f"{name}_largest"),
            # A token of zeros must not be divided by zero.
            helper.make_node("Max", [f"{name}_largest", self._least], [f"{name}_scale"]),
            helper.make_node("Div", [name, f"{name}_scale"], [f"{name}_unit"]),
            helper.make_node("QuantizeLinear", [f"{name}_unit", self._scale, self._zero], [f"{name}_int8"]),
        ]

    def _one_sided(self, name: str, width: int, bounds: OneSided) -> list[Any]:
        """`name`_scale is a token's step. QuantizeLinear takes a step for each row of two dimensions."""
        zero = self._constant(f"{name}_zero", np.uint8(bounds.zero))
        least = self._constant(f"{name}_least", np.float32(bounds.least_top))
        share = self._constant(f"{name}_share", np.float32(1 / (_LEVELS - bounds.zero)))
        rows = self._constant(f"{name}_rows_shape", np.array([-1, width], np.int64))
        flat = self._constant(f"{name}_flat_shape", np.array([-1], np.int64))
        return [
            self._largest(name, f"{name}_largest"),
            helper.make_node("Max", [f"{name}_largest", least], [f"{name}_top"]),
            helper.make_node("Mul", [f"{name}_top", share], [f"{name}_scale"]),
            helper.make_node("Reshape", [f"{name}_scale", flat], [f"{name}_steps"]),
            helper.make_node("Shape", [f"{name}_steps"], [f"{name}_count"]),
            helper.make_node("Expand", [zero, f"{name}_count"], [f"{name}_zeros"]),
            helper.make_node("Reshape", [name, rows], [f"{name}_rows"]),
            helper.make_node(
                "QuantizeLinear", [f"{name}_rows", f"{name}_steps", f"{name}_zeros"], [f"{name}_rows_int8"], axis=0
            ),
            helper.make_node("Shape", [name], [f"{name}_shape"]),
            helper.make_node("Reshape", [f"{name}_rows_int8", f"{name}_shape"], [f"{name}_int8"]),
        ]

    def _largest(self, values: str, largest: str) -> Any:
        inputs, axes = ([values, self._last_axis], {}) if self._axes_as_input else ([values], {"axes": [-1]})
        return helper.make_node("ReduceMax", inputs, [largest], keepdims=1, **axes)

    def _add_weight(self, name: str) -> None:
        if name in self._done:
            return
        self._done.add(name)
        steps, scales = self._weights[name]
        self._constant(f"{name}_int8", steps)
        self._constant(f"{name}_scale", scales)
        self._constant(f"{name}_zero", np.zeros(len(scales), np.int8))

    def _constant(self, name: str, value: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name
