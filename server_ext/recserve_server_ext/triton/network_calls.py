"""Calls of networks through Triton (business logic scripting). Importable only inside a Python model."""

from __future__ import annotations

from pathlib import Path

import triton_python_backend_utils as pb

from recserve_client.contract import ErrorKind, RequestError
from recserve_client.contract import models as names
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.networks.loaded import ServedNetworks
from recserve_server_ext.networks.network import Tensors


def served_networks(settings: ModelSettings) -> ServedNetworks:
    """The loaded networks, called through Triton."""
    timeout_us = int(settings.serve.encoder_timeout_s * MICROSECONDS)

    def run(model: str, tensors: Tensors) -> Vectors:
        request = pb.InferenceRequest(
            model_name=model,
            requested_output_names=[names.VECTOR],
            inputs=[pb.Tensor(*pair) for pair in zip((names.VECTORS, names.PAUSES, names.MASK), tensors, strict=True)],
            timeout=timeout_us,
            preferred_memory=pb.PreferredMemory(pb.TRITONSERVER_MEMORY_CPU, 0),
        )
        try:
            result = request.exec()
        except pb.TritonModelException as error:  # while the model itself is being loaded
            raise RequestError(ErrorKind.UNAVAILABLE, f"the network cannot be asked yet: {error}") from None
        if result.has_error():
            raise RequestError(ErrorKind.UNAVAILABLE, f"the network did not answer: {result.error().message()}")
        vectors: Vectors = pb.get_output_tensor_by_name(result, names.VECTOR).as_numpy()
        return vectors

    return ServedNetworks(Path(settings.run), run)
