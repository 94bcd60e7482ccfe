"""Triton model `interactions`: packed request -> packed answer. Converts tensors; recserve_server_ext has the logic."""

from pathlib import Path

from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.config.server import rules_of
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.ledger import Ledger
from recserve_server_ext.interactions.store import opener
from recserve_server_ext.services.interactions import InteractionService
from recserve_server_ext.services.model_traces import tracer
from recserve_server_ext.triton.backend import door_of, execute, model_settings, refusals_of, settle_memory
from recserve_server_ext.triton.metrics.models import AdmissionMetrics, interactions_metrics, release_metrics


class TritonPythonModel:
    """Records, reads and erases the interactions of users."""

    def initialize(self, args):
        settings = model_settings(args)
        users = settings.serve.users
        keys = UserKeys(lambda: read_pseudonyms(Path(settings.pseudonym_key)))
        service = InteractionService(
            opener(settings.interactions, users.limits, keys, Ledger(Path(settings.erasures))),
            keys,
            rules_of(users),
            settings.serve.limits,
            tracer(settings),
        )
        self._model, self._sampled = (
            Batcher(service, {}, run_batch=settings.serve.batch),
            interactions_metrics(service),
        )
        self._admissions = AdmissionMetrics("interactions", self._model)
        self._door = door_of(args, settings, "interactions")
        self._refusals = refusals_of(settings, "interactions")
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests, self._door, self._refusals)

    def finalize(self):
        self._model.close()
        self._sampled.close()
        self._admissions.close()
        self._refusals.close()
        release_metrics()
