"""Triton models of networks, such as `sequence_...`: behaviours of users -> user vectors, with onnxruntime inside."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from recserve_client.contract import RequestError
from recserve_client.contract.models import MASK, PAUSES, VECTOR, VECTORS
from recserve_server_ext.networks.network import NETWORK, Tensors
from recserve_server_ext.networks.runner import NetworkRunner
from recserve_server_ext.triton.backend import door_of, error_response, let_in, model_settings, settle_memory


class TritonPythonModel:
    """Runs the rows of all requests of a batch together."""

    def initialize(self, args):
        self._door = door_of(args, model_settings(args), "sequence")
        self._network = NetworkRunner(Path(args["model_repository"], args["model_version"], NETWORK))
        settle_memory()

    def execute(self, requests):
        responses, inputs = [None] * len(requests), {}
        for number, request in enumerate(requests):
            try:
                let_in(self._door, request)
            except RequestError as error:
                responses[number] = error_response(error)
                continue
            tensors = (pb.get_input_tensor_by_name(request, name) for name in (VECTORS, PAUSES, MASK))
            inputs[number] = [tensor.as_numpy() for tensor in tensors]
        if inputs:
            joined = (np.concatenate(tensors) for tensors in zip(*inputs.values(), strict=True))
            ends = np.cumsum([len(tensors[0]) for tensors in inputs.values()])[:-1]
            for number, rows in zip(inputs, np.split(self._network.run(Tensors(*joined)), ends), strict=True):
                responses[number] = pb.InferenceResponse(output_tensors=[pb.Tensor(VECTOR, rows)])
        return responses
