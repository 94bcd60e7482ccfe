"""Triton model `items`: packed change or question -> packed answer. Converts tensors; the logic is elsewhere."""

from pathlib import Path

from recserve_server_ext.catalogue_editor import CatalogueEditor
from recserve_server_ext.catalogue_store import opener
from recserve_server_ext.encoder_manifest import read_manifest
from recserve_server_ext.packed_model import PackedModel
from recserve_server_ext.triton_io import TritonEncoder, execute, model_settings, settle_memory


class TritonPythonModel:
    """Changes and reads the catalogue."""

    def initialize(self, args):
        settings = model_settings(args)
        serve = settings.serve
        manifest = read_manifest(Path(settings.encoder), verify=False)
        encoder = TritonEncoder(Path(settings.encoder), manifest, serve, role="passage")
        editor = CatalogueEditor(opener(settings.store), manifest.runtime_fingerprint, serve.limits)
        self._model = PackedModel(editor, encoder, waiting=serve.waiting)
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests)

    def finalize(self):
        self._model.close()
