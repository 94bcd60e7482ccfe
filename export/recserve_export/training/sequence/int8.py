"""int8 for the network of `sequence`, behind a gate: it must rank as fp32 does."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from recserve_export.encoder.quantise.gptq import RoundedWeight
from recserve_export.encoder.quantise.products import int8_inputs, quantise_products
from recserve_export.errors import TrainingError
from recserve_export.training.base import TrainingLog
from recserve_export.training.ndcg import ndcg
from recserve_server_ext.common.arrays import Ints, Vectors
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.index.engines.exact import best
from recserve_server_ext.networks.network import Behaviours, new_network
from recserve_server_ext.networks.runner import InProcess

#: Least share of the ten best items that int8 and fp32 have in common, and least ratio of their NDCG@10.
LEAST_OVERLAP: Final = 0.95
LEAST_NDCG: Final = 0.99
_FIRST: Final = 10
#: Users that are compared.
_USERS: Final = 1000
#: Weights of 7 bits: products with uint8 then never overflow 16 bits, and give the same on every CPU.
_LEVELS: Final = 63


class Agreement(NamedTuple):
    """How int8 ranks beside fp32.

    Attributes:
        overlap: Share of the ten best items in common.
        ndcg: NDCG@10 of the last behaviour of users after those before it, by int8.
        ndcg_fp32: The same by fp32.
    """

    overlap: float
    ndcg: float
    ndcg_fp32: float


def to_int8(fp32: bytes) -> bytes:
    """The network with int8 products: a scale for each behaviour, and one for each output of a weight."""
    model = onnx.load_model_from_string(fp32)
    names = {weight for weights in int8_inputs(model).values() for weight in weights}
    weights = {
        tensor.name: _rounded(numpy_helper.to_array(tensor))
        for tensor in model.graph.initializer
        if tensor.name in names
    }
    quantise_products(model, weights)
    content: bytes = model.SerializeToString()
    return content


def _rounded(weight: Vectors) -> RoundedWeight:
    scales = np.abs(weight).max(axis=0) / np.float32(_LEVELS)
    scales[scales == 0] = 1
    return RoundedWeight(np.rint(weight / scales).astype(np.int8), scales.astype(np.float32))


def check_int8(log: TrainingLog, items: Ints, vectors: Vectors, length: int, fp32: bytes, int8: bytes) -> Agreement:
    """Compare rankings of what came last in histories.

    Args:
        log: The log.
        items: [items] the trained ones, ascending.
        vectors: [items, dim].
        length: Behaviours that the network takes.
        fp32: The network.
        int8: The network in int8.

    Raises:
        TrainingError: int8 ranks otherwise.
    """
    inputs, targets = _questions(log, items, vectors, length)
    found = [
        best(vectors @ InProcess(new_network(content, vectors.shape[1], length))(inputs).T, min(_FIRST, len(items)))[0]
        for content in (fp32, int8)
    ]
    overlap = float(np.mean([np.isin(one, other).mean() for one, other in zip(*found, strict=True)]))
    one = np.ones(len(targets), np.int64)
    of_fp32, of_int8 = (float(ndcg(rankings == targets[:, None], one).mean()) for rankings in found)
    agreement = Agreement(overlap, of_int8, of_fp32)
    if overlap < LEAST_OVERLAP or agreement.ndcg < LEAST_NDCG * agreement.ndcg_fp32:
        raise TrainingError(
            f"int8 ranks otherwise than fp32: overlap@10 {overlap:.3f} (least {LEAST_OVERLAP}), NDCG@10 "
            f"{agreement.ndcg:.4f} against {agreement.ndcg_fp32:.4f} (least ratio {LEAST_NDCG}); "
            "train with --set precision=fp32"
        )
    return agreement


def _questions(log: TrainingLog, items: Ints, vectors: Vectors, length: int) -> tuple[list[Behaviours], Ints]:
    """What users did before their last behaviour, and that one."""
    ends = np.append(np.flatnonzero(np.diff(log.user)), len(log.user) - 1)
    starts = np.append(0, ends[:-1] + 1)
    chosen = np.flatnonzero(ends > starts)[:_USERS]
    place = np.searchsorted(items, log.item)
    inputs = []
    for start, end in zip(starts[chosen].tolist(), ends[chosen].tolist(), strict=True):
        own = slice(max(start, end - length), end)
        pauses = np.diff(log.time_us[own], prepend=log.time_us[own][:1]) / MICROSECONDS
        inputs.append(Behaviours(vectors[place[own]], pauses))
    return inputs, place[ends[chosen]]
