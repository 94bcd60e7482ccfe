"""A tiny network with random weights."""

from __future__ import annotations

from functools import cache

from recserve_server_ext.networks.network import Network, new_network

DIM, LENGTH = 8, 6


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
