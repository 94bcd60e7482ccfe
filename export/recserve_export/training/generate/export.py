"""Exports the decoder of `generate` to ONNX."""

from __future__ import annotations

import io

import numpy as np
import onnx
import torch

from recserve_export.errors import TrainingError
from recserve_export.stages import quiet
from recserve_export.training.generate.decoder import DecoderNetwork
from recserve_export.training.sequence.export import OPSET, TOLERANCE
from recserve_server_ext.networks.decoder import CODES, LEAF, LOG_PROBS, USER, DecoderRunner
from recserve_server_ext.networks.network import Decoder


def decoder_to_onnx(network: DecoderNetwork) -> bytes:
    """The ONNX file of a decoder: any number of rows, and of codes so far.

    Raises:
        TrainingError: onnxruntime does not give what torch gives.
    """
    network.eval()
    levels, dim, codes = network.heads.shape
    random = np.random.default_rng(0)
    users = random.standard_normal((5, dim)).astype(np.float32)
    ids = random.integers(0, codes, (5, levels))
    sample, buffer = (torch.from_numpy(users), torch.from_numpy(ids[:, : max(levels - 1, 1)])), io.BytesIO()
    rows = {0: "rows"}
    with quiet():
        torch.onnx.export(
            network, sample, buffer, input_names=[USER, CODES], output_names=[LOG_PROBS, LEAF],
            dynamic_axes={USER: rows, CODES: {0: "rows", 1: "steps"}, LOG_PROBS: {0: "rows", 1: "asked"}, LEAF: rows},
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    model = onnx.load_model_from_string(buffer.getvalue())
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    runner = DecoderRunner(Decoder(content, np.zeros((levels, codes, dim), np.float32)))
    for steps in range(levels + 1):
        with torch.no_grad():
            expected = network(torch.from_numpy(users), torch.from_numpy(ids[:, :steps]))
        found = runner(users, ids[:, :steps])
        for one, other in zip(expected, found, strict=True):
            if (difference := float(np.abs(one.numpy() - other).max())) > TOLERANCE:
                raise TrainingError(
                    f"the exported decoder differs from the trained one by {difference:.2g}, over {TOLERANCE}"
                )
    return content
