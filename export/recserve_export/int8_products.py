"""Matrix products with constant weights -> int8, with one scale for each token and one for each output channel.

A token x (one row of the activations) becomes round(127 x / max|x|), so its numbers depend on no other token, and a
text's vector on no other text of its batch: the products are sums of integers. Dynamic quantisation as onnxruntime
writes it takes one scale for a whole tensor, which makes a text's vector depend on its company, and keeps less of each
token.

The product is onnxruntime's `MatMulIntegerToFloat`, which applies one scale for all tokens; that of a token is applied
behind it: x W = max|x| / 127 * (q_x q_W) * s_W.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

_CONTRIB: Final = "com.microsoft"
_TOKEN_LEVELS: Final = 127
#: uint8 stands for -127..127 with this for zero: AVX2 and VNNI multiply unsigned activations with signed weights.
_ZERO: Final = 128
#: From this opset on, ReduceMax takes its axes as an input.
_AXES_AS_INPUT: Final = 18

Values = NDArray[np.float32]


def quantise_products(model: Any, *, weight_bits: int, kept: Collection[str] = ()) -> None:
    """Replace the products with constant weights by int8 ones, in place.

    Args:
        model: The graph.
        weight_bits: 8, or 7.
        kept: Names of nodes that stay fp32.
    """
    writer = _Writer(model, weight_bits)
    nodes: list[Any] = []
    for node in model.graph.node:
        is_product = node.op_type == "MatMul" and node.input[1] in writer.matrices and node.name not in kept
        nodes += writer.product(node) if is_product else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    tensors = [tensor for tensor in [*model.graph.initializer, *writer.tensors] if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensors)
    if all(opset.domain != _CONTRIB for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))


def quantised_weight(weight: Values, bits: int) -> tuple[NDArray[np.int8], Values]:
    """int8 [inputs, outputs] and scales [outputs] of a weight [inputs, outputs]; 7 bits go to 63."""
    levels = 2 ** (bits - 1) - 1
    scales = np.abs(weight).max(axis=0) / np.float32(levels)
    scales[scales == 0] = 1
    return np.rint(weight / scales).astype(np.int8), scales.astype(np.float32)


class _Writer:
    """Writes the nodes of int8 products; an activation or weight that several products share is quantised once.

    Attributes:
        matrices: The constant 2-D weights by name.
        tensors: Constants of the nodes written so far.
    """

    def __init__(self, model: Any, weight_bits: int) -> None:
        self.matrices = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
        self.tensors: list[Any] = []
        self._weight_bits = weight_bits
        opsets = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
        self._axes_as_input = max(opsets) >= _AXES_AS_INPUT
        self._done: set[str] = set()
        self._scale = self._constant("int8_token_scale", np.float32(1 / _TOKEN_LEVELS))
        self._zero = self._constant("int8_token_zero", np.uint8(_ZERO))
        self._least = self._constant("int8_least_max", np.float32(1e-30))
        self._last_axis = self._constant("int8_last_axis", np.array([-1], np.int64))

    def product(self, node: Any) -> list[Any]:
        """The nodes in the place of a MatMul."""
        activation, weight = node.input
        nodes = self._activation(activation)
        self._quantise(weight)
        inputs = [f"{activation}_int8", f"{weight}_int8", self._scale, f"{weight}_scale", self._zero, f"{weight}_zero"]
        product = f"{node.output[0]}_of_unit_tokens"
        return [
            *nodes,
            helper.make_node("MatMulIntegerToFloat", inputs, [product], domain=_CONTRIB, name=f"{node.name}_int8"),
            helper.make_node("Mul", [product, f"{activation}_max"], [node.output[0]], name=f"{node.name}_scaled"),
        ]

    def _activation(self, name: str) -> list[Any]:
        if name in self._done:
            return []
        self._done.add(name)
        largest = [f"{name}_abs", self._last_axis] if self._axes_as_input else [f"{name}_abs"]
        axes = {} if self._axes_as_input else {"axes": [-1]}
        return [
            helper.make_node("Abs", [name], [f"{name}_abs"]),
            helper.make_node("ReduceMax", largest, [f"{name}_largest"], keepdims=1, **axes),
            # A token of zeros must not be divided by zero.
            helper.make_node("Max", [f"{name}_largest", self._least], [f"{name}_max"]),
            helper.make_node("Div", [name, f"{name}_max"], [f"{name}_unit"]),
            helper.make_node("QuantizeLinear", [f"{name}_unit", self._scale, self._zero], [f"{name}_int8"]),
        ]

    def _quantise(self, weight: str) -> None:
        if weight in self._done:
            return
        self._done.add(weight)
        values, scales = quantised_weight(numpy_helper.to_array(self.matrices[weight]), self._weight_bits)
        self._constant(f"{weight}_int8", values)
        self._constant(f"{weight}_scale", scales)
        self._constant(f"{weight}_zero", np.zeros(len(scales), np.int8))

    def _constant(self, name: str, value: Any) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name
