"""int8 quantisation of a graph: SmoothQuant, weights rounded by GPTQ, a scale for each token and for each table row."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from recserve_export.encoder.quantise.gptq import Gptq, RoundedWeight
from recserve_export.encoder.quantise.products import int8_inputs, one_sided, quantise_products, weight_matmuls
from recserve_export.encoder.quantise.smoothquant import smooth, weight_products
from recserve_export.encoder.quantise.statistics import ActivationStatistics, activation_statistics
from recserve_export.encoder.quantise.token_table import quantise_token_table
from recserve_export.encoder.recipe import Int8Recipe
from recserve_export.errors import ExportError
from recserve_server_ext.common.arrays import Floats, Ints


def calibrated(
    fp32: Path, calibration: Iterable[Ints], done: Callable[[int], None] = lambda _: None
) -> dict[str, ActivationStatistics]:
    """Statistics of all activations that are multiplied with constant weights, by name; they serve every recipe.

    Args:
        fp32: File to read.
        calibration: Token ids [tokens] of each text to calibrate with.
        done: Called with 1 after each calibration text.

    Raises:
        ExportError: The graph has no product with constant weights.
    """
    model = _prepared(fp32)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    widths = {activation: shapes[weights[0]][0] for activation, weights in int8_inputs(model).items()}
    return activation_statistics(model, widths, list(calibration), done)


def write_int8(fp32: Path, int8: Path, calibration: Mapping[str, ActivationStatistics], recipe: Int8Recipe) -> None:
    """Quantise an encoder's graph.

    Products with constant weights and the token table become int8; the products inside attention stay fp32.
    Activations that hardly go below zero (behind GELU) are not smoothed: their outliers cost less than a weight with
    the channels' factors in it.

    Args:
        fp32: File to read.
        int8: File to write.
        calibration: From `calibrated`, of the same file.
        recipe: How to quantise.

    Raises:
        ExportError: The graph has no product with constant weights.
    """
    model = _prepared(fp32)
    outputs = ffn_outputs(model)
    kept = outputs[: math.ceil(recipe.fp32_ffn_share * len(outputs))]
    inputs = int8_inputs(model, kept)
    statistics = {name: calibration[name] for name in inputs}
    bounds = {name: found for name, of in statistics.items() if (found := one_sided(of)) is not None}
    products = {name: weights for name, weights in weight_products(model, kept).items() if name not in bounds}
    factors = smooth(model, products, {name: of.largest for name, of in statistics.items()}, recipe.alpha)
    moments = {
        name: of.moments * np.outer(factors[name], factors[name]) if name in factors else of.moments
        for name, of in statistics.items()
    }
    quantise_products(model, _rounded_weights(model, inputs, moments, recipe.weight_bits), kept=kept, bounds=bounds)
    quantise_token_table(model)
    onnx.save(model, int8)


def _prepared(fp32: Path) -> Any:
    """The graph with its products written out; raises ExportError where it has none to quantise."""
    model = onnx.load(fp32)
    write_out(model)
    if not ffn_outputs(model):
        raise ExportError(
            "int8 is made of products with constant weights (MatMul), and this graph has none that end a feed-forward "
            "network; take --precision fp32"
        )
    return model


def _rounded_weights(
    model: Any, inputs: dict[str, list[str]], moments: dict[str, Floats], bits: int
) -> dict[str, RoundedWeight]:
    """Every weight that is multiplied in int8, rounded for all the activations that it is multiplied with."""
    activations: dict[str, list[str]] = defaultdict(list)
    for activation, weights in inputs.items():
        for weight in weights:
            activations[weight].append(activation)
    behind: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for weight, own in activations.items():
        behind[tuple(own)].append(weight)
    matrices = {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in activations}
    rounded: dict[str, RoundedWeight] = {}
    for of, weights in behind.items():
        gptq = Gptq(np.sum([moments[one] for one in of], axis=0))
        rounded |= {one: gptq.rounded(numpy_helper.to_array(matrices[one]), bits) for one in weights}
    return rounded


def write_out(model: Any) -> None:
    """Write products with constant weights as MatMul with the weights themselves, in place.

    A layer that is repeated (ALBERT) names its weights by Identity nodes from the second time on: left alone they would
    see weights that were rescaled for the first. GPT-2 has Gemm (x W + b). That of a Dense module, whose weights are
    transposed, stays: it is one row for each text, not worth int8.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    alias: dict[str, str] = {}
    nodes: list[Any] = []
    for node in model.graph.node:
        if node.op_type == "Identity" and (whole := alias.get(node.input[0], node.input[0])) in constants:
            alias[node.output[0]] = whole
            continue
        for at, name in enumerate(node.input):
            node.input[at] = alias.get(name, name)
        nodes += _written_out(node) if _is_plain_gemm(node, constants) else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _is_plain_gemm(node: Any, constants: Collection[str]) -> bool:
    """Whether it is x W or x W + b, W constant."""
    if node.op_type != "Gemm" or node.input[1] not in constants:
        return False
    options = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    plain = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
    return all(options.get(name, value) == value for name, value in plain.items())


def _written_out(node: Any) -> list[Any]:
    if len(node.input) == 2:  # an exporter leaves a bias of zeros out
        return [helper.make_node("MatMul", node.input[:], node.output[:], name=f"{node.name}/MatMul")]
    product = f"{node.output[0]}_product"
    return [
        helper.make_node("MatMul", node.input[:2], [product], name=f"{node.name}/MatMul"),
        helper.make_node("Add", [product, node.input[2]], node.output[:], name=f"{node.name}/Add"),
    ]


def ffn_outputs(model: Any) -> list[str]:
    """Node names of the products that end a feed-forward network, first layer first.

    By shape: their weights [inputs, outputs] have the most inputs in the graph, and fewer outputs. What stands before
    them (GELU, a gate) makes the largest outliers, hence most of the loss.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 2}
    nodes = [(node.name, shapes[node.input[1]]) for node in weight_matmuls(model, shapes)]
    most = max((inputs for _, (inputs, _) in nodes), default=0)
    return [name for name, (inputs, outputs) in nodes if inputs == most and outputs < inputs]
