"""An encoder on a GPU in this process, by onnxruntime-gpu: for checks of a provider, not for serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime

from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.config.server import Provider
from recserve_server_ext.encoder.manifest import MODEL, read_manifest
from recserve_server_ext.encoder.padding import padded, padded_widths, plan_calls
from recserve_server_ext.encoder.tokenizer import TextTokenizer

#: Names of the providers in onnxruntime.
PROVIDERS: Final[Mapping[Provider, str]] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_BATCH: Final = 64


class GpuEncoder:
    """Runs an encoder as a GPU target does: texts of similar length together, padded to the least of `widths`."""

    def __init__(self, folder: Path, provider: Provider) -> None:
        """
        Args:
            provider: `cpu` runs the same way without a GPU.

        Raises:
            EncoderError: The folder is damaged, the provider is missing, or it does not load.
        """
        self._manifest = read_manifest(folder)
        self._tokenizer = TextTokenizer(folder, self._manifest.max_tokens)
        self.widths = padded_widths("onnxruntime", self._manifest.max_tokens)
        name = PROVIDERS[provider]
        if name not in (offered := onnxruntime.get_available_providers()):
            raise EncoderError(
                f"onnxruntime {onnxruntime.__version__} has no {name}, but {', '.join(offered)}; "
                "uninstall onnxruntime, then: pip install 'recserve[gpu]'"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        chosen: list[Any] = [(name, _options(provider, self._manifest.precision))]
        if provider != "cpu":
            chosen.append(PROVIDERS["cpu"])  # for the few nodes that a GPU's provider leaves
        try:
            self._session = onnxruntime.InferenceSession(str(folder / MODEL), options, providers=chosen)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EncoderError(f"{name} cannot load {folder / MODEL}: {error}") from error
        # onnxruntime leaves out a provider whose libraries are missing, with a line in the log and no error.
        if self._session.get_providers()[0] != name:
            raise EncoderError(
                f"{name} did not load, onnxruntime fell back to {self._session.get_providers()[0]}; "
                "install the libraries that it needs, of the versions that it was built with"
            )

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors of the texts as queries, [texts, dim]; raises EncoderError where the provider fails."""
        tokens = self._tokenizer(texts, "query")
        vectors = np.empty((len(texts), self._manifest.dim), np.float32)
        for rows, width in plan_calls(tokens.lengths, self.widths, _BATCH):
            vectors[rows] = self.run(*padded(tokens, width, rows))
        return vectors

    def run(self, ids: Ints, mask: Ints) -> Vectors:
        """Unit vectors [texts, dim] of one run; ids and mask [texts, tokens]. Raises EncoderError."""
        try:
            vectors: Vectors = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise EncoderError(f"{self._session.get_providers()[0]} failed: {error}") from error
        return vectors

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""
        return self._tokenizer.vocabulary


def _options(provider: Provider, precision: str) -> dict[str, Any]:
    # fp32 must not be computed in TF32, which has 10 bits of mantissa.
    if provider == "cuda":
        return {"use_tf32": "0"} if precision == "fp32" else {}
    return {"trt_fp16_enable": precision == "fp16"} if provider == "tensorrt" else {}
