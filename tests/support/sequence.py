"""Tiny networks with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.networks.canonical import trained_network
from recserve_server_ext.networks.network import Decoder, Network, new_network

DIM, LENGTH = 8, 6
LEVELS, CODES = 2, 3


@cache
def tiny_network(seed: int = 0) -> Network:
    """A network of one layer over vectors of 8 elements."""
    import torch

    from recserve_export.training.sequence.export import to_onnx
    from recserve_export.training.sequence.network import Network as Module

    torch.manual_seed(seed)
    module = Module(DIM, LENGTH, 1, 2, 0.0, masked=False)
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return trained_network(to_onnx(module, DIM), DIM, LENGTH)


@cache
def tiny_generator(seed: int = 0) -> Network:
    """A tiny network with a decoder of two levels of three codes."""
    import torch

    from recserve_export.training.generate.decoder import DecoderNetwork
    from recserve_export.training.generate.export import decoder_to_onnx

    torch.manual_seed(seed)
    codebooks = torch.randn(LEVELS, CODES, DIM) * torch.tensor([1.0, 0.3])[:, None, None]
    module = DecoderNetwork(codebooks, 1, 2, 0.0)
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    decoder = Decoder(decoder_to_onnx(module), codebooks.numpy())
    return trained_network(tiny_network(seed).content, DIM, LENGTH, decoder=decoder)


def with_weight(network: Network, change: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Network:
    """A network with other weights than those that its canonical vectors are of, and a manifest that fits.

    Args:
        network: The network.
        change: Gives a new matrix of weights for the largest one.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load_model_from_string(network.content)
    weights = max(model.graph.initializer, key=lambda tensor: numpy_helper.to_array(tensor).size)
    weights.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weights)), weights.name))
    manifest = network.manifest
    changed = new_network(model.SerializeToString(), manifest.dim, manifest.length, manifest.precision, network.decoder)
    return changed._replace(canonical=network.canonical)


def bit_flipped(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of which one has another exponent, by one bit."""
    bits = weights.copy().view(np.uint32)
    bits.flat[0] ^= 1 << 30
    return np.asarray(bits.view(np.float32), np.float32)


def drawn_anew(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Other weights of the same size."""
    drawn = np.random.default_rng(5).standard_normal(weights.shape) * float(weights.std())
    return np.asarray(drawn, np.float32)
