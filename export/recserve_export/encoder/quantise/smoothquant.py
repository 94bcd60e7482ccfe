"""SmoothQuant: the outliers of activations move into the weights, before both become int8.

SmoothQuant (Xiao et al. 2023, https://arxiv.org/abs/2211.10438): x W = (x / s)(s W), with
s_c = amax(x_c)^alpha / amax(W_c)^(1 - alpha) for each channel c. One scale for a whole token cannot hold the outliers
of its activations; the weights have a scale for each output channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from recserve_export.encoder.quantise.products import int8_inputs, matrices_of, weight_matmuls
from recserve_server_ext.common.arrays import Vectors


def weight_products(model: Any, kept: Collection[str] = ()) -> dict[str, list[str]]:
    """Names of the weights of int8 products by activation, without those that cannot be rescaled.

    Those are weights behind several activations (ALBERT repeats one layer), or that other nodes read as well. The
    nodes of `kept` stay fp32.
    """
    matrices = matrices_of(model)
    matmuls = weight_matmuls(model, matrices)
    # Of every node: one that stays fp32, or is no product, must not find its weight rescaled for another.
    products = {(node.input[0], node.input[1]) for node in matmuls}
    readers = {(node.name, name) for node in model.graph.node for name in node.input if name in matrices}
    readers -= {(node.name, node.input[1]) for node in matmuls}
    uses = Counter(weight for _, weight in [*products, *readers])
    return {
        activation: weights
        for activation, weights in int8_inputs(model, kept).items()
        if all(uses[weight] == 1 for weight in weights)
    }


def smooth(model: Any, products: dict[str, list[str]], ranges: dict[str, Vectors], alpha: float) -> dict[str, Vectors]:
    """Multiply each activation by 1/s and its weights by s, in place; the graph computes the same in float.

    Args:
        model: The graph.
        products: From `weight_products`.
        ranges: [channels] largest magnitude of each channel, by activation.
        alpha: Share of the activations' range that moves into the weights, 0 to 1.

    Returns:
        1/s [channels] of each activation.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    factors: dict[str, Vectors] = {}
    for activation, names in products.items():
        matrices = {name: numpy_helper.to_array(tensors[name]) for name in names}
        largest = np.max([np.abs(matrix).max(1) for matrix in matrices.values()], axis=0)
        scale = channel_scales(ranges[activation], largest, alpha)
        for name, matrix in matrices.items():
            tensors[name].CopyFrom(numpy_helper.from_array(matrix * scale[:, None], name))
        factors[activation] = (1 / scale).astype(np.float32)
    _insert_factors(model, products, factors)
    return factors


def channel_scales(activation: Vectors, weight: Vectors, alpha: float) -> Vectors:
    """s = amax(x)^alpha / amax(W)^(1 - alpha) for each channel, [channels]; 1 where either never leaves 0."""
    is_alive = (activation > 0) & (weight > 0)
    scale = np.ones_like(activation)
    scale[is_alive] = activation[is_alive] ** alpha / weight[is_alive] ** (1 - alpha)
    return scale


def _insert_factors(model: Any, products: dict[str, list[str]], factors: dict[str, Vectors]) -> None:
    nodes: list[Any] = []
    inserted: set[str] = set()
    for node in model.graph.node:
        activation = node.input[0] if node.op_type == "MatMul" else ""
        if activation in products and node.input[1] in products[activation]:
            smoothed = f"{activation}_smoothed"
            if activation not in inserted:
                inserted.add(activation)
                constant = numpy_helper.from_array(factors[activation], f"{activation}_factor")
                model.graph.initializer.append(constant)
                nodes.append(helper.make_node("Mul", [activation, constant.name], [smoothed], name=smoothed))
            node.input[0] = smoothed
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
