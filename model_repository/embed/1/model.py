"""Triton model `embed`: packed texts -> packed vectors. Converts tensors; the logic is in recserve_server_ext."""

from recserve_client.contract.models import ENCODER
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.services.embed import Embedder
from recserve_server_ext.triton.backend import execute, model_settings, served_encoders, settle_memory


class TritonPythonModel:
    """Turns texts into vectors through the encoder that is served."""

    def initialize(self, args):
        settings = model_settings(args)
        encoders = served_encoders(settings)
        embedder = Embedder(encoders.serving, settings.serve.limits)
        self._model = Batcher(embedder, {ENCODER: encoders}, at_once=0)
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests)

    def finalize(self):
        self._model.close()
