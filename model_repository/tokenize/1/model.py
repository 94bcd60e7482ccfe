"""Triton model `tokenize`: packed request -> token ids and mask of its texts; first step of `recommend_text`."""

from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb

from recserve_client.contract import RequestError
from recserve_client.contract.models import ATTENTION_MASK, INPUT_IDS, REQUEST_ROWS
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.padding import padded, padded_widths, width_of
from recserve_server_ext.encoder.tokenizer import TextTokenizer
from recserve_server_ext.services.recommend_text import texts_of
from recserve_server_ext.triton.backend import (
    door_of,
    error_response,
    let_in,
    model_settings,
    read_packed,
    settle_memory,
)


class TritonPythonModel:
    """Tokenises texts; the first row of the output carries the packed request on."""

    def initialize(self, args):
        settings = model_settings(args)
        self._door = door_of(args, settings, "tokenize")
        folder = Path(settings.encoder)
        self._limits = settings.serve.limits
        max_tokens = read_manifest(folder, verify=False).max_tokens
        self._widths = padded_widths(settings.serve.encoder.target, max_tokens)
        self._tokenizer = TextTokenizer(folder, max_tokens)
        settle_memory()

    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        try:
            let_in(self._door, request)
            raw = read_packed(request)
            texts = texts_of(raw, self._limits)
        except RequestError as error:
            return error_response(error)
        tokens = self._tokenizer(texts)
        ids, mask = padded(tokens, width_of(int(tokens.lengths.max()), self._widths))
        rows = np.array([[raw]] + [[b""]] * (len(texts) - 1), dtype=np.object_)
        return pb.InferenceResponse(
            output_tensors=[
                pb.Tensor(INPUT_IDS.name, ids),
                pb.Tensor(ATTENTION_MASK.name, mask),
                pb.Tensor(REQUEST_ROWS.name, rows),
            ]
        )
