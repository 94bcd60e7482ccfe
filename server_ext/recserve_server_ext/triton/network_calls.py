"""Calls of networks through Triton (business logic scripting). Importable only inside a Python model."""

from __future__ import annotations

from pathlib import Path

import triton_python_backend_utils as pb

from recserve_client.contract import models as names
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.networks.loaded import ServedNetworks
from recserve_server_ext.networks.network import Tensors
from recserve_server_ext.triton.backend import answered_vectors


def served_networks(settings: ModelSettings) -> ServedNetworks:
    """The loaded networks, called through Triton."""
    timeout_us = int(settings.serve.encoder_timeout_s * MICROSECONDS)

    def run(model: str, tensors: Tensors) -> Vectors:
        named = zip((names.VECTORS, names.PAUSES, names.MASK), tensors, strict=True)
        return answered_vectors("network", model, [pb.Tensor(*pair) for pair in named], timeout_us, settings.own_key)

    return ServedNetworks(Path(settings.run), run)
