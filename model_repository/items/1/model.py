"""Triton model `items`: packed request -> packed answer. Converts tensors; the logic is in recserve_server_ext."""

from recserve_client.contract.models import ENCODER, ITEMS
from recserve_server_ext.batching.batcher import Batcher
from recserve_server_ext.catalogue.store import opener
from recserve_server_ext.services.items import ItemService
from recserve_server_ext.services.own_spaces import own_spaces
from recserve_server_ext.triton.backend import PackedModel, served_encoders


class TritonPythonModel(PackedModel):
    """Changes and reads the catalogue."""

    name = ITEMS

    def batcher(self, settings):
        serve = settings.serve
        encoders = served_encoders(settings, role="passage")
        service = ItemService(opener(settings.store), encoders.serving, own_spaces(settings), serve.limits)
        return Batcher(service, {ENCODER: encoders}, at_once=serve.encoding, run_batch=serve.batch)
