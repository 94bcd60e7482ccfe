"""Does an exported encoder give the vectors of the model it came from, and how fast?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Final

import numpy as np
from numpy.typing import NDArray

from recserve_export.encoder_report import Agreement, BatchInvariance, EncoderReport, Machine, Neighbours
from recserve_export.errors import FidelityError
from recserve_server_ext import cpu
from recserve_server_ext.text_encoder import TextEncoder

Vectors = NDArray[np.float32]

#: Least cosine of an fp32 vector with PyTorch's.
LEAST_FP32_COS: Final = 0.9999
#: Least mean cosine of the default model's int8 vectors with fp32.
LEAST_INT8_MEAN_COS: Final = 0.97
#: Largest difference that sharing a batch may make to an fp32 vector; int8 must not differ by a bit.
MOST_FP32_BATCH_DIFFERENCE: Final = 1e-5

_ROUNDS: Final = 3


def compare(found: Vectors, expected: Vectors, against: str) -> Agreement:
    """Compare vectors [texts, dim] row by row; both are of unit length."""
    cosines = np.einsum("td,td->t", found.astype(np.float64), expected.astype(np.float64))
    return Agreement(
        against=against,
        texts=len(found),
        min_cos=float(cosines.min()),
        mean_cos=float(cosines.mean()),
        p01_cos=float(np.percentile(cosines, 1)),
        max_abs_difference=float(np.abs(found - expected).max()),
    )


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


def measure_neighbours(found: Vectors, expected: Vectors, k: int = 10) -> Neighbours:
    """Overlap of each text's `k` nearest others by `found` with those by `expected`, both [texts, dim]."""
    pairs = zip(_nearest(found, k), _nearest(expected, k), strict=True)
    overlap = np.mean([len(np.intersect1d(one, other)) / k for one, other in pairs])
    return Neighbours(texts=len(found), k=k, overlap=float(overlap))


def measure_speed(
    encoders: Iterable[TextEncoder], titles: Sequence[str], done: Callable[[int], None] = lambda _: None
) -> dict[str, float]:
    """Titles/s of each encoder by precision: medians of rounds in which they take turns; `done` gets 1 after each."""
    encoders = list(encoders)
    seconds: dict[str, list[float]] = {encoder.manifest.precision: [] for encoder in encoders}
    for _ in range(_ROUNDS):
        for encoder in encoders:
            begin = time.perf_counter()
            encoder.encode(titles)
            seconds[encoder.manifest.precision].append(time.perf_counter() - begin)
            done(1)
    return {precision: round(len(titles) / median(times), 1) for precision, times in seconds.items()}


def speed_rounds(encoders: int) -> int:
    """How often `measure_speed` calls `done`."""
    return _ROUNDS * encoders


def check(report: EncoderReport, *, is_default: bool) -> None:
    """Refuse an encoder whose figures are not good enough.

    Args:
        report: The figures.
        is_default: Whether it is the default model, for which int8 has a limit as well.

    Raises:
        FidelityError: Names the figure, its limit, and what to do.
    """
    figures, invariance = report.agreement, report.batch_invariance
    what = f"the {report.precision} export of {report.name}"
    if report.precision == "fp32":
        if not figures.min_cos >= LEAST_FP32_COS:
            raise FidelityError(
                f"{what} differs from PyTorch: least cosine {figures.min_cos:.6f} of {figures.texts} texts is below "
                f"{LEAST_FP32_COS}; this architecture or these versions of torch and optimum do not export it rightly"
            )
        if not invariance.max_abs_difference <= MOST_FP32_BATCH_DIFFERENCE:
            raise FidelityError(
                f"{what} gives a text another vector when it shares a batch: difference "
                f"{invariance.max_abs_difference:.2g}, at most {MOST_FP32_BATCH_DIFFERENCE:g} is allowed"
            )
        return
    if not invariance.is_bit_equal:
        raise FidelityError(f"{what} gives a text other bits when it shares a batch; serve fp32 instead")
    if is_default and not figures.mean_cos >= LEAST_INT8_MEAN_COS:
        raise FidelityError(
            f"{what} differs from fp32: mean cosine {figures.mean_cos:.4f} is below {LEAST_INT8_MEAN_COS}; serve fp32"
        )


def machine() -> Machine:
    """This machine."""
    return Machine(cpu=cpu.model_name(), int8_arithmetic=cpu.int8_arithmetic(), cores=cpu.usable_cores())


def _nearest(vectors: Vectors, k: int) -> NDArray[np.int64]:
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest: NDArray[np.int64] = np.argpartition(-scores, k, axis=1)[:, :k]
    return nearest
