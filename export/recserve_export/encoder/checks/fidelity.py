"""Does an exported encoder give the vectors of the model it came from, and how fast?"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recserve_export.encoder.checks.texts import SEED, EncoderTexts
from recserve_export.encoder.report.report import (
    Agreement,
    BatchInvariance,
    Candidate,
    EncoderReport,
    Machine,
    Neighbours,
    Speed,
    WorstText,
)
from recserve_export.errors import FidelityError
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.manifest import INT8, Precision
from recserve_server_ext.encoder.text_encoder import TextEncoder

#: Least cosine of an fp32 vector with PyTorch's.
LEAST_FP32_COS: Final = 0.9999
#: Largest difference that sharing a batch may make to an fp32 vector; int8 must not differ by a bit.
MOST_FP32_BATCH_DIFFERENCE: Final = 1e-5
#: Of an fp16 vector: what the last bit of 11 is worth, twice.
MOST_FP16_BATCH_DIFFERENCE: Final = 1e-3

_ROUNDS: Final = 3
_PAIRS: Final = 20_000
_WORST: Final = 10


def compare(found: Vectors, expected: Vectors) -> Agreement:
    """Compare vectors [texts, dim] row by row; both are of unit length."""
    cosines = cosines_of(found, expected)
    return Agreement(
        texts=len(found),
        min_cos=float(cosines.min()),
        mean_cos=float(cosines.mean()),
        p01_cos=float(np.percentile(cosines, 1)),
        max_abs_difference=float(np.abs(found - expected).max()),
    )


def cosines_of(found: Vectors, expected: Vectors) -> NDArray[np.float64]:
    """Cosine of each row of the one with that of the other, [texts]; both [texts, dim]."""
    # Float32 vectors are of unit length to 1e-7 only, which is as much as fp32 differs.
    left, right = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: NDArray[np.float64] = np.einsum("td,td->t", left, right) / lengths
    return cosines


def measure_batch_invariance(
    encoder: TextEncoder, texts: Sequence[str], done: Callable[[int], None] = lambda _: None
) -> BatchInvariance:
    """Encode the texts together and one by one; `done` is called with 1 after each."""
    together = encoder.encode(texts)
    alone = np.empty_like(together)
    for row, text in enumerate(texts):
        alone[row] = encoder.encode([text])[0]
        done(1)
    return BatchInvariance(
        texts=len(texts),
        max_abs_difference=float(np.abs(together - alone).max()),
        is_bit_equal=together.tobytes() == alone.tobytes(),
    )


def measure_neighbours(found: Vectors, expected: Vectors, k: int = 10, *, seed: int = SEED) -> Neighbours:
    """Overlap of each text's `k` nearest others, and Spearman's rank correlation of pairs, both [texts, dim]."""
    pairs = zip(_nearest(found, k), _nearest(expected, k), strict=True)
    overlap = np.mean([len(np.intersect1d(one, other)) / k for one, other in pairs])
    left, right = np.random.default_rng(seed).integers(0, len(found), (2, _PAIRS))
    left, right = left[left != right], right[left != right]
    cosines = [np.einsum("pd,pd->p", vectors[left], vectors[right]) for vectors in (found, expected)]
    spearman = float(stats.spearmanr(*cosines).statistic)
    return Neighbours(k=k, overlap=float(overlap), pairs=len(left), spearman=spearman)


def worst_texts(texts: Sequence[str], found: Vectors, expected: Vectors, k: int = 10) -> list[WorstText]:
    """The texts with the least cosines, each with its `k` nearest others by both, nearest first."""
    cosines = cosines_of(found, expected)
    nearest = [_nearest(vectors, k) for vectors in (found, expected)]
    return [
        WorstText(
            text=texts[row],
            cos=float(cosines[row]),
            expected=[texts[at] for at in nearest[1][row]],
            found=[texts[at] for at in nearest[0][row]],
        )
        for row in np.argsort(cosines, kind="stable")[:_WORST]
    ]


def measure_speed(
    encoders: Mapping[Precision, TextEncoder],
    texts: EncoderTexts,
    done: Callable[[int], None] = lambda _: None,
) -> dict[Precision, Speed]:
    """Texts/s of each encoder: medians of rounds in which they take turns; `done` gets 1 after each."""
    seconds: dict[tuple[Precision, bool], list[float]] = defaultdict(list)
    for _ in range(_ROUNDS):
        for is_long, sample in ((False, texts.titles), (True, texts.longer)):
            for precision, encoder in encoders.items():
                begin = time.perf_counter()
                encoder.encode(sample)
                seconds[precision, is_long].append(time.perf_counter() - begin)
                done(1)
    return {
        precision: Speed(
            titles=round(len(texts.titles) / median(seconds[precision, False]), 1),
            descriptions=round(len(texts.longer) / median(seconds[precision, True]), 1),
        )
        for precision in encoders
    }


def speed_rounds(encoders: int) -> int:
    """How often `measure_speed` calls `done`."""
    return 2 * _ROUNDS * encoders


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest candidate that passes its gate, by the geometric mean of titles and descriptions per second.

    Raises:
        FidelityError: None passes.
    """
    passing = [one for one in candidates if not one.misses]
    if not passing:
        missed = "; ".join(f"{one.precision}: {', '.join(one.misses)}" for one in candidates)
        raise FidelityError(f"no precision passes the gate ({missed}); lower a bound, such as --min-overlap")
    return max(passing, key=lambda one: one.speed.titles * one.speed.descriptions)


def check(report: EncoderReport) -> None:
    """Refuse an encoder that the exporter made wrongly, whatever the gate says.

    Raises:
        FidelityError: Names the figure, its limit, and what to do.
    """
    figures, invariance = report.agreement, report.batch_invariance
    what = f"the {report.precision} export of {report.name}"
    if report.precision in INT8:
        if not invariance.is_bit_equal:
            raise FidelityError(f"{what} gives a text other bits when it shares a batch; serve fp32 instead")
        return
    if report.precision != "fp16" and not figures.min_cos >= LEAST_FP32_COS:
        raise FidelityError(
            f"{what} differs from PyTorch: least cosine {figures.min_cos:.6f} of {figures.texts} texts is below "
            f"{LEAST_FP32_COS}; this architecture or these versions of torch and optimum do not export it rightly"
        )
    most = MOST_FP16_BATCH_DIFFERENCE if report.precision == "fp16" else MOST_FP32_BATCH_DIFFERENCE
    if not invariance.max_abs_difference <= most:
        raise FidelityError(
            f"{what} gives a text another vector when it shares a batch: difference "
            f"{invariance.max_abs_difference:.2g}, at most {most:g} is allowed"
        )


def machine() -> Machine:
    """This machine."""
    return Machine(
        cpu=cpu.model_name(),
        int8_arithmetic=cpu.int8_arithmetic(),
        flags=cpu.vector_flags(),
        cores=cpu.usable_cores(),
    )


def _nearest(vectors: Vectors, k: int) -> NDArray[np.int64]:
    """Rows of the `k` nearest others, nearest first, [texts, k]."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, nearest, 1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, 1)
