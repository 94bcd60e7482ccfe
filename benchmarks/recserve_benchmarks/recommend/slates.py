"""What was served, compared with exact search."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from recserve_benchmarks.recommend.raw import K
from recserve_client.contract import Slate
from recserve_export.index.recall import TIE, normalised_means


def read_slate(answer: bytes) -> tuple[bytes, Slate]:
    """The packed slate of a serialised ModelInferResponse, as bytes and decoded."""
    raw = service_pb2.ModelInferResponse.FromString(answer).raw_output_contents[0][4:]
    return raw, msgspec.json.decode(raw, type=Slate)


def recall_at_10(vectors: NDArray[np.float32], rows: NDArray[np.int64], found: Sequence[Sequence[int]]) -> float:
    """Share of the exact ten that were served, with each user's own history excluded from both.

    An item that ties with the tenth counts.

    Args:
        vectors: [items, dim] unit vectors.
        rows: [users, behaviours] histories, as rows of `vectors`.
        found: Rows served to each user.
    """
    hits = 0
    for history, slate in zip(rows, found, strict=True):
        scores = vectors @ normalised_means(vectors[history][None])[0]
        scores[history] = -np.inf
        tenth = np.partition(scores, -K)[-K]
        hits += int(np.count_nonzero(scores[list(set(slate))] >= tenth - TIE))
    return hits / (K * len(found))
