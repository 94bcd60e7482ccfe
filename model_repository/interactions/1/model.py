"""Triton model `interactions`: packed request -> packed answer. Converts tensors; recserve_server_ext has the logic."""

from pathlib import Path

from recserve_client.contract.models import INTERACTIONS
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.config.server import rules_of
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.ledger import Ledger
from recserve_server_ext.interactions.store import opener
from recserve_server_ext.services.interactions import InteractionService
from recserve_server_ext.services.model_traces import tracer
from recserve_server_ext.triton.backend import PackedModel
from recserve_server_ext.triton.metrics.models import interactions_metrics


class TritonPythonModel(PackedModel):
    """Records, reads and erases the interactions of users."""

    name = INTERACTIONS

    def batcher(self, settings):
        users = settings.serve.users
        keys = UserKeys(lambda: read_pseudonyms(Path(settings.pseudonym_key)))
        service = InteractionService(
            opener(settings.interactions, users.limits, keys, Ledger(Path(settings.erasures))),
            keys,
            rules_of(users),
            settings.serve.limits,
            tracer(settings),
        )
        self.closing.append(interactions_metrics(service))
        return Batcher(service, {}, run_batch=settings.serve.batch)
