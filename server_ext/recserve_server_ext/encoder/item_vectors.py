"""Item vectors from the texts of items: v = normalise(sum_f a_f G(y_f)), each distinct text encoded once."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Ints, Mask, Vectors

#: Length of a digest of `made_from`.
MADE_FROM_BYTES: Final = 16
#: A sum shorter than this, relative to the sum of |a_f|, is rounding noise without a direction.
_CANCELLED = 1e-5
_BLOCK_PAIRS = 16_384


class Pairs(NamedTuple):
    """The weighted texts of items; the pairs of item n begin at first[n] and end before first[n + 1].

    Attributes:
        first: [items], rising: an item has at least one pair.
        text: [pairs] index into `texts`.
        weight: [pairs] a_f.
    """

    texts: list[str]
    first: Ints
    text: Ints
    weight: NDArray[np.float32]


class PairCollector:
    """Collects the weighted texts of items, one item after the other."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        """
        Args:
            weights: a_f by text field; 1 for any other field.
        """
        self._weights = weights
        self._index_of: dict[str, int] = {}
        self._first: array[int] = array("q")
        self._text: array[int] = array("q")
        self._weight: array[float] = array("f")

    def add(self, texts: Mapping[str, str]) -> bool:
        """Add an item, unless none of its texts has a weight; whether it was added."""
        first = len(self._text)
        for name, text in texts.items():
            if weight := self._weights.get(name, 1.0):
                self._text.append(self._index_of.setdefault(text, len(self._index_of)))
                self._weight.append(weight)
        if len(self._text) == first:
            return False
        self._first.append(first)
        return True

    def pairs(self) -> Pairs:
        """The collected pairs."""
        return Pairs(
            list(self._index_of),
            np.frombuffer(self._first, np.int64),
            np.frombuffer(self._text, np.int64),
            np.frombuffer(self._weight, np.float32),
        )


def pooled(pairs: Pairs, of_texts: Vectors) -> tuple[Vectors, Mask]:
    """The item vectors, and which of them cancelled out.

    Args:
        of_texts: [texts, dim] unit vectors of `pairs.texts`.

    Returns:
        [items, dim] unit float32, undefined for an item that cancelled out; [items] whether it did.
    """
    sums = weighted_sums(of_texts, pairs)
    lengths = np.linalg.norm(sums, axis=1)
    scale = np.add.reduceat(np.abs(pairs.weight), pairs.first) if len(pairs.first) else lengths
    cancelled = lengths < _CANCELLED * scale
    np.divide(sums, np.maximum(lengths, np.float32(1e-30))[:, None], out=sums)
    return sums, cancelled


def weighted_sums(of_texts: Vectors, pairs: Pairs) -> Vectors:
    """sum_f a_f G(y_f) of each item, [items, dim]."""
    items = len(pairs.first)
    sums = np.empty((items, of_texts.shape[1]), np.float32)
    ends = np.append(pairs.first, len(pairs.text))
    start = 0
    while start < items:
        # As many whole items as fit into a block, at least one: memory is bounded.
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + _BLOCK_PAIRS, side="right")) - 1)
        block = slice(ends[start], ends[stop])
        weighted = of_texts[pairs.text[block]] * pairs.weight[block, None]
        np.add.reduceat(weighted, pairs.first[start:stop] - ends[start], axis=0, out=sums[start:stop])
        start = stop
    return sums


def made_with(encoder: str, field_weights: Mapping[str, float]) -> str:
    """Digest of what item vectors depend on besides texts: the encoder's runtime fingerprint and the field weights."""
    weights = sorted((name, float(weight)) for name, weight in field_weights.items())
    return hashlib.sha256(msgspec.json.encode([encoder, weights])).hexdigest()[:32]


def made_from(texts: Mapping[str, str], field_weights: Mapping[str, float]) -> bytes:
    """Digest (16 bytes) of what an item vector depends on besides the encoder: its weighted texts and their weights."""
    weighted = sorted((float(weight), text) for name, text in texts.items() if (weight := field_weights.get(name, 1.0)))
    return hashlib.blake2b(msgspec.json.encode(weighted), digest_size=MADE_FROM_BYTES).digest()


def encode_items(collector: PairCollector, encode: Callable[[Sequence[str]], Vectors]) -> tuple[Vectors, Mask]:
    """`pooled` of the collected pairs, with each distinct text encoded once."""
    pairs = collector.pairs()
    return pooled(pairs, encode(pairs.texts))
