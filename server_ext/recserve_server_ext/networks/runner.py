"""Runs a network with onnxruntime; the vector of a user does not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from recserve_client.contract.models import MASK, PAUSES, VECTOR, VECTORS
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.networks.network import MAX_ROWS, Behaviours, Network, Tensors, padded

#: Rows are filled up to a multiple: a product of fewer is added up in another order.
TILE: Final = 4


def session_of(network: Path | bytes) -> Any:
    """A session of onnxruntime on one thread, from a file or its content; raises SnapshotError where it is refused."""
    # Here, since onnxruntime is large, and who only names strategies runs no network.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = network if isinstance(network, bytes) else str(network)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise SnapshotError(f"onnxruntime cannot load the network: {error}") from error


class NetworkRunner:
    """An exported network in this process, on one thread."""

    def __init__(self, network: Path | bytes) -> None:
        """Load a network from its file or its content; raises SnapshotError where onnxruntime refuses it."""
        self._session = session_of(network)

    def run(self, rows: Tensors) -> Vectors:
        """[rows, dim] float32 user vectors."""
        count = len(rows.mask)
        if more := -count % TILE:
            rows = Tensors(*(np.concatenate([tensor, np.zeros_like(tensor[:1]).repeat(more, 0)]) for tensor in rows))
        names = (VECTORS, PAUSES, MASK)
        result: Vectors = self._session.run([VECTOR], dict(zip(names, rows, strict=True)))[0]
        return result[:count]


class InProcess:
    """Calls a network in this process, as a server calls it through Triton."""

    def __init__(self, network: Network) -> None:
        self._manifest, self._runner = network.manifest, NetworkRunner(network.content)

    def __call__(self, inputs: Sequence[Behaviours]) -> Vectors:
        """[inputs, dim] user vectors."""
        starts = range(0, len(inputs), MAX_ROWS)
        return np.concatenate(
            [self._runner.run(padded(inputs[start : start + MAX_ROWS], self._manifest)) for start in starts]
        )
