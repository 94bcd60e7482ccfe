"""Exports the network of `sequence` to ONNX."""

from __future__ import annotations

import io

import numpy as np
import onnx
import torch

from recserve_client.contract.models import MASK, PAUSES, VECTOR, VECTORS
from recserve_export.errors import TrainingError
from recserve_export.stages import quiet
from recserve_export.training.sequence.network import Network
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.networks.canonical import HISTORIES, made_histories
from recserve_server_ext.networks.network import Tensors
from recserve_server_ext.networks.runner import NetworkRunner

#: Greatest difference between the outputs of torch and of onnxruntime.
TOLERANCE = 1e-4
OPSET = 17


def to_onnx(network: Network, dim: int) -> bytes:
    """The ONNX file of a network: rows of any number, everything else of fixed size.

    Raises:
        TrainingError: onnxruntime does not give what torch gives.
    """
    sample = made_histories(dim, network.length, 3)
    tensors = tuple(torch.from_numpy(tensor) for tensor in sample)
    buffer, rows = io.BytesIO(), {0: "rows"}
    with quiet():
        torch.onnx.export(
            network.eval(), tensors, buffer, input_names=[VECTORS, PAUSES, MASK], output_names=[VECTOR],
            dynamic_axes={VECTORS: rows, PAUSES: rows, MASK: rows, VECTOR: rows}, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    model = onnx.load_model_from_string(buffer.getvalue())
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    # The canonical ones: what is kept of them is what torch gives, too.
    if (found := difference(network, content, made_histories(dim, network.length, HISTORIES))) > TOLERANCE:
        raise TrainingError(f"the exported network differs from the trained one by {found:.2g}, over {TOLERANCE}")
    return content


def difference(network: Network, content: bytes, tensors: Tensors) -> float:
    """Greatest difference of a value between torch and onnxruntime."""
    with torch.no_grad():
        expected: Vectors = network(*(torch.from_numpy(tensor) for tensor in tensors)).numpy()
    return float(np.abs(expected - NetworkRunner(content).run(tensors)).max())
