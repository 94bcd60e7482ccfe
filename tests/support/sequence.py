"""Tiny networks with random weights."""

from __future__ import annotations

from functools import cache

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
    return new_network(to_onnx(module, DIM), DIM, LENGTH)


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
    return new_network(tiny_network(seed).content, DIM, LENGTH, decoder=decoder)
