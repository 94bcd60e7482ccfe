"""Triton model `embed`: packed texts -> packed vectors. Converts tensors; the logic is in recserve_server_ext."""

from recserve_client.contract.models import EMBED, ENCODER
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.services.embed import Embedder
from recserve_server_ext.triton.backend import PackedModel, served_encoders


class TritonPythonModel(PackedModel):
    """Encodes texts with the served encoder."""

    name = EMBED

    def batcher(self, settings):
        encoders = served_encoders(settings)
        service, batch = Embedder(encoders.serving, settings.serve.limits), settings.serve.batch
        return Batcher(service, {ENCODER: encoders}, at_once=0, run_batch=batch)
