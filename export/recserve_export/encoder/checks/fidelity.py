"""Fidelity: how far the vectors of an encoder are from those of the model it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from recserve_export.encoder.checks.texts import SEED
from recserve_server_ext.common.arrays import Floats, Ints, Vectors

if TYPE_CHECKING:
    from recserve_server_ext.encoder.text_encoder import TextEncoder

#: Neighbours of a text that are compared.
K: Final = 10
_PAIRS: Final = 20_000
_WORST: Final = 10


class Fidelity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors of the same texts from an encoder and from the reference, which is PyTorch in fp32.

    Attributes:
        texts: Number of texts.
        min_cos: Least cosine of a text's two vectors.
        mean_cos: Mean cosine.
        p01_cos: First percentile of the cosines.
        max_abs_difference: Largest difference of one element.
        overlap: Mean share of a text's ten nearest others by the reference that are so by the encoder.
        pairs: Pairs of texts, drawn with a seed.
        spearman: Rank correlation of the pairs' cosines by the encoder with those by the reference.
    """

    texts: int
    min_cos: float
    mean_cos: float
    p01_cos: float
    max_abs_difference: float
    overlap: float
    pairs: int
    spearman: float


class BatchInvariance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Vectors of texts alone against the same texts in one batch.

    Attributes:
        texts: Number of texts.
        max_abs_difference: Largest difference of one element.
        is_bit_equal: Whether no bit differs.
    """

    texts: int
    max_abs_difference: float
    is_bit_equal: bool


class WorstText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of the texts that lost most.

    Attributes:
        text: The text.
        cos: Cosine of its two vectors.
        expected: Its nearest texts by the reference, nearest first.
        found: Its nearest texts by the encoder.
    """

    text: str
    cos: float
    expected: list[str]
    found: list[str]


def compare(found: Vectors, expected: Vectors) -> Fidelity:
    """Compare unit vectors [texts, dim] of an encoder with those of the reference."""
    from scipy import stats

    cosines = cosines_of(found, expected)
    nearest = zip(_nearest(found), _nearest(expected), strict=True)
    left, right = np.random.default_rng(SEED).integers(0, len(found), (2, _PAIRS))
    left, right = left[left != right], right[left != right]
    of_pairs = [np.einsum("pd,pd->p", vectors[left], vectors[right]) for vectors in (found, expected)]
    return Fidelity(
        texts=len(found),
        min_cos=float(cosines.min()),
        mean_cos=float(cosines.mean()),
        p01_cos=float(np.percentile(cosines, 1)),
        max_abs_difference=float(np.abs(found - expected).max()),
        overlap=float(np.mean([len(np.intersect1d(one, other)) / len(one) for one, other in nearest])),
        pairs=len(left),
        spearman=float(stats.spearmanr(*of_pairs).statistic),
    )


def cosines_of(found: Vectors, expected: Vectors) -> Floats:
    """Cosine of each row of the one with that of the other, [texts]; both [texts, dim]."""
    # Float32 vectors are of unit length to 1e-7 only, which is as much as fp32 differs.
    left, right = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: Floats = np.einsum("td,td->t", left, right) / lengths
    return cosines


def measure_batch_invariance(
    encoder: TextEncoder, texts: Sequence[str], done: Callable[[int], None] = lambda _: None
) -> BatchInvariance:
    """Encode the texts in one batch and one by one; `done` is called with 1 after each."""
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


def worst_texts(texts: Sequence[str], found: Vectors, expected: Vectors) -> list[WorstText]:
    """The texts with the least cosines, each with its ten nearest others by both, nearest first."""
    cosines = cosines_of(found, expected)
    by_encoder, by_reference = _nearest(found), _nearest(expected)
    return [
        WorstText(
            text=texts[row],
            cos=float(cosines[row]),
            expected=[texts[at] for at in by_reference[row]],
            found=[texts[at] for at in by_encoder[row]],
        )
        for row in np.argsort(cosines, kind="stable")[:_WORST]
    ]


def _nearest(vectors: Vectors) -> Ints:
    """Rows of the ten nearest others, or of all where there are fewer, nearest first, [texts, k]."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    k = min(K, len(vectors) - 1)
    nearest = np.argpartition(-scores, k, axis=1)[:, :k]
    order = np.argsort(-np.take_along_axis(scores, nearest, 1), axis=1, kind="stable")
    return np.take_along_axis(nearest, order, 1)
