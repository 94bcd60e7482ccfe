"""Triton model `items`: packed change or question -> packed answer. Converts tensors; the logic is elsewhere."""

from recserve_server_ext.catalogue_editor import CatalogueEditor
from recserve_server_ext.catalogue_store import opener
from recserve_server_ext.encoder_metrics import EncoderMetrics
from recserve_server_ext.packed_model import PackedModel
from recserve_server_ext.triton_io import execute, model_settings, served_encoders, settle_memory


class TritonPythonModel:
    """Changes and reads the catalogue."""

    def initialize(self, args):
        settings = model_settings(args)
        encoders = served_encoders(settings, role="passage")
        editor = CatalogueEditor(opener(settings.store), encoders.serving, settings.serve.limits)
        options = {"encoding": settings.serve.encoding, "show_waiting": EncoderMetrics("items").show}
        self._model = PackedModel(editor, encoders, **options)
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests)

    def finalize(self):
        self._model.close()
