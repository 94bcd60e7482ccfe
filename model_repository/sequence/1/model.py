"""Triton model `sequence_...`: behaviours of users -> user vectors, with onnxruntime inside the Python backend."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from recserve_client.contract.models import MASK, PAUSES, VECTOR, VECTORS
from recserve_server_ext.networks.network import NETWORK, Tensors
from recserve_server_ext.networks.runner import NetworkRunner


class TritonPythonModel:
    """Runs the rows of all requests of a batch together."""

    def initialize(self, args):
        self._network = NetworkRunner(Path(args["model_repository"], args["model_version"], NETWORK))

    def execute(self, requests):
        inputs = [
            [pb.get_input_tensor_by_name(request, name).as_numpy() for name in (VECTORS, PAUSES, MASK)]
            for request in requests
        ]
        found = self._network.run(Tensors(*(np.concatenate(tensors) for tensors in zip(*inputs, strict=True))))
        ends = np.cumsum([len(tensors[0]) for tensors in inputs])[:-1]
        return [pb.InferenceResponse(output_tensors=[pb.Tensor(VECTOR, rows)]) for rows in np.split(found, ends)]
