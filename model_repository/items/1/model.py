"""Triton model `items`: packed request -> packed answer. Converts tensors; the logic is in recserve_server_ext."""

from recserve_client.contract.models import ENCODER
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.catalogue.store import opener
from recserve_server_ext.services.items import ItemService
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
    """Changes and reads the catalogue."""

    def initialize(self, args):
        settings = model_settings(args)
        serve = settings.serve
        encoders = served_encoders(settings, role="passage")
        service = ItemService(opener(settings.store), encoders.serving, serve.limits)
        self._model = Batcher(service, {ENCODER: encoders}, at_once=serve.encoding, run_batch=serve.batch)
        self._admissions = AdmissionMetrics("items", self._model)
        self._door = door_of(args, settings, "items")
        self._refusals = refusals_of(settings, "items")
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests, self._door, self._refusals)

    def finalize(self):
        self._model.close()
        self._admissions.close()
        self._refusals.close()
        release_metrics()
