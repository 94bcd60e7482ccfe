"""Texts/s and latency by length and batch, of an encoder and of the model it came from in PyTorch."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Final

import numpy as np

from recserve_export.encoder.checks.reference import Reference
from recserve_export.encoder.checks.texts import SEED
from recserve_export.encoder.report.report import PYTORCH, SpeedPoint
from recserve_server_ext.common.arrays import Ints
from recserve_server_ext.encoder.text_encoder import TextEncoder, TokenTable

_LENGTHS: Final = (8, 32, 128)
_BATCHES: Final = (1, 8, 32)
_TEXTS: Final = 32
#: Calls of one measurement at most.
_CALLS: Final = 4
_ROUNDS: Final = 3


def measure_grid(encoder: TextEncoder, reference: Reference) -> list[SpeedPoint]:
    """Medians of rounds in which the two take turns; up to 32 texts of equal length, in batches.

    A batch is what one call gets. The encoder cuts it as serving does, on all cores; PyTorch runs it whole, with as
    many threads as it takes by itself.
    """
    seconds: dict[tuple[str, int, int], list[float]] = defaultdict(list)
    rng = np.random.default_rng(SEED)
    calls: dict[str, Callable[[Ints], object]] = {
        encoder.manifest.precision: lambda ids: encoder.run(TokenTable(ids, np.full(len(ids), ids.shape[1]))),
        PYTORCH: reference.run,
    }
    for _ in range(_ROUNDS):
        for length in _lengths(encoder):
            ids = rng.integers(0, encoder.tokenizer.vocabulary, (_TEXTS, length), np.int64)
            for batch in _BATCHES:
                texts = min(_TEXTS, _CALLS * batch)
                for name, call in calls.items():
                    for start in range(0, texts, batch):
                        begin = time.perf_counter()
                        call(ids[start : start + batch])
                        seconds[name, length, batch].append(time.perf_counter() - begin)
    return [SpeedPoint.of_calls(*shape, times) for shape, times in seconds.items()]


def _lengths(encoder: TextEncoder) -> list[int]:
    return sorted({min(length, encoder.manifest.max_tokens) for length in _LENGTHS})
