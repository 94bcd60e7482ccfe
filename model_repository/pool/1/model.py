"""Triton model `pool`: request and text vectors -> packed request with vectors; third step of `recommend_text`."""

from pathlib import Path

import triton_python_backend_utils as pb

from recserve_client.contract import RequestError
from recserve_client.contract.models import PACKED, REQUEST_ROWS, VECTOR
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.services.recommend_text import with_vectors
from recserve_server_ext.triton.backend import (
    door_of,
    error_response,
    let_in,
    model_settings,
    packed,
    read_rows,
    settle_memory,
)


class TritonPythonModel:
    """Adds the vector of each text to the request."""

    def initialize(self, args):
        settings = model_settings(args)
        self._door = door_of(args, settings, "pool")
        self._encoder = read_manifest(Path(settings.encoder), verify=False).runtime_fingerprint
        settle_memory()

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            let_in(self._door, request)
            raw = read_rows(request, REQUEST_ROWS.name)[0]
            vectors = pb.get_input_tensor_by_name(request, VECTOR).as_numpy()
            content = with_vectors(raw, vectors, self._encoder)
        except RequestError as error:
            return error_response(error)
        return pb.InferenceResponse(output_tensors=[packed(PACKED.name, content)])
