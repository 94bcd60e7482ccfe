"""Triton model `encoder`: token ids and mask -> unit vectors, with onnxruntime inside the Python backend."""

from pathlib import Path

import triton_python_backend_utils as pb

from recserve_client.contract import RequestError
from recserve_client.contract.models import ATTENTION_MASK, INPUT_IDS, VECTOR
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.services.encoder import EncoderModel
from recserve_server_ext.triton.backend import door_of, error_response, let_in, model_settings, settle_memory


class TritonPythonModel:
    """Runs the rows of all requests of a batch together."""

    def initialize(self, args):
        settings = model_settings(args)
        # Without a folder in the settings (an exported model), its own version folder holds the encoder.
        folder = Path(args["model_repository"], args["model_version"], settings.encoder)
        self._door = door_of(args, settings, "encoder")
        self._model = EncoderModel(TextEncoder(folder, threads=settings.serve.threads or None))
        settle_memory()

    def execute(self, requests):
        responses, accepted = [None] * len(requests), {}
        for number, request in enumerate(requests):
            ids = pb.get_input_tensor_by_name(request, INPUT_IDS.name).as_numpy()
            mask = pb.get_input_tensor_by_name(request, ATTENTION_MASK.name).as_numpy()
            try:
                let_in(self._door, request)
                accepted[number] = ids, self._model.check(ids, mask)
            except RequestError as error:
                responses[number] = error_response(error)
        if accepted:
            for number, vectors in zip(accepted, self._model.run(list(accepted.values())), strict=True):
                responses[number] = pb.InferenceResponse(output_tensors=[pb.Tensor(VECTOR, vectors)])
        return responses
