"""Triton model `embed`: packed texts -> packed vectors. Converts tensors; the logic is in recserve_server_ext."""

from pathlib import Path

from recserve_server_ext.embedder import Embedder
from recserve_server_ext.encoder_manifest import read_manifest
from recserve_server_ext.packed_model import PackedModel
from recserve_server_ext.triton_io import TritonEncoder, execute, model_settings, settle_memory


class TritonPythonModel:
    """Turns texts into vectors through the model `encoder`."""

    def initialize(self, args):
        settings = model_settings(args)
        serve = settings.serve
        manifest = read_manifest(Path(settings.encoder), verify=False)
        encoder = TritonEncoder(Path(settings.encoder), manifest, serve)
        embedder = Embedder(manifest.runtime_fingerprint, manifest.dim, serve.limits)
        self._model = PackedModel(embedder, encoder, waiting=serve.waiting)
        settle_memory()

    def execute(self, requests):
        return execute(self._model, requests)

    def finalize(self):
        self._model.close()
