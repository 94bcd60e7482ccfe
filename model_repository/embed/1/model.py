"""Triton model `embed`: packed texts -> packed vectors. Converts tensors; the logic is in recserve_server_ext."""

from recserve_client.contract.models import ENCODER
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.services.embed import Embedder
from recserve_server_ext.triton.backend import (
    door_of,
    execute,
    model_settings,
    refusals_of,
    served_encoders,
    settle_memory,
)
from recserve_server_ext.triton.metrics.models import AdmissionMetrics, release_metrics


class TritonPythonModel:
    """Encodes texts with the served encoder."""

    def initialize(self, args):
        settings = model_settings(args)
        encoders = served_encoders(settings)
        service, batch = Embedder(encoders.serving, settings.serve.limits), settings.serve.batch
        self._model = Batcher(service, {ENCODER: encoders}, at_once=0, run_batch=batch)
        self._admissions = AdmissionMetrics("embed", self._model)
        self._door = door_of(args, settings, "embed")
        self._refusals = refusals_of(settings, "embed")
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests, self._door, self._refusals)

    def finalize(self):
        self._model.close()
        self._admissions.close()
        self._refusals.close()
        release_metrics()
