"""The `exact` engine: every inner product, in blocks. The reference for recall, and the fallback of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.index.engines.engine import Engine, most_banned, no_results

#: Scores held at once (32 MiB of float32); a block has at least one query.
_BLOCK_SCORES = 1 << 23
#: Vectors gathered at once (24 MiB of 384 dimensions).
_GATHERED = 1 << 14
#: Columns of one group at most when candidates are picked.
_GROUP = 64
#: Below every score, and finite, as `best` wants it.
_BANNED: Final = np.finfo(np.float32).min


class ExactEngine(Engine):
    """Scans all items; the lower row wins ties, so the answer is unique.

    A call with many queries is one large matrix product, far cheaper than many calls.
    """

    name = "exact"

    def __init__(self, vectors: Vectors) -> None:
        """Search item vectors [items, dim], unit float32; they may be mapped and are not copied."""
        self.parameters = {}
        self.vectors = vectors

    def with_parameters(self, parameters: Mapping[str, int]) -> ExactEngine:
        """Itself: it has no parameters."""
        return self

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[Rows] = ()
    ) -> tuple[Rows, Scores]:
        """See `Engine.search`; memory is bounded."""
        rows, scores = no_results(len(queries), k)
        items = len(self.vectors)
        found = min(k, items)
        if not found:
            return rows, scores
        block = max(1, _BLOCK_SCORES // items)
        for start in range(0, len(queries), block):
            part = slice(start, start + block)
            products = self.vectors @ queries[part].T
            for query, of_query in enumerate(banned[part]):
                products[of_query, query] = _BANNED
            rows[part, :found], scores[part, :found] = best(products, found)
        if found + most_banned(banned) > items:
            is_banned = scores == _BANNED
            rows[is_banned], scores[is_banned] = -1, -np.inf
        return rows, scores


def search_among(vectors: Vectors, queries: Vectors, among: Rows, k: int) -> tuple[Rows, Scores]:
    """The k best of some items; their vectors are gathered once for the whole batch, chunk by chunk.

    Args:
        vectors: [items, dim] unit float32.
        queries: [n, dim] unit float32, finite.
        among: Rows of the items, in rising order.
        k: At least 1.

    Returns:
        Rows [n, k] and scores [n, k] as `ExactEngine.search` gives them.
    """
    rows, scores = no_results(len(queries), k)
    found = 0
    for start in range(0, len(among), _GATHERED):
        chunk = among[start : start + _GATHERED]
        gathered, kept = vectors[chunk], min(k, found + len(chunk))
        for first in range(0, len(queries), _BLOCK_SCORES // _GATHERED):
            part = slice(first, first + _BLOCK_SCORES // _GATHERED)
            places, values = best(gathered @ queries[part].T, min(k, len(chunk)))
            # Earlier chunks come first, so equal scores stay in the order of the rows.
            all_rows = np.concatenate([rows[part, :found], chunk[places]], axis=1)
            picked, scores[part, :kept] = best(np.concatenate([scores[part, :found], values], axis=1).T, kept)
            rows[part, :kept] = np.take_along_axis(all_rows, picked, axis=1)
        found = kept
    return rows, scores


def best(scores: Scores, k: int) -> tuple[Rows, Scores]:
    """Rows and scores of the k largest scores of each query, best first, ties by the lower row; both [n, k].

    Args:
        scores: [items, n], finite: items first, since products with the longer side first are the faster ones.
        k: At most `items`.
    """
    # Found by one index, since numpy takes four times as long for two.
    rows, queries = np.divmod(np.flatnonzero(scores >= floor(scores, k)), scores.shape[1])
    values = scores[rows, queries]
    # Numbers of two parts are sorted by the first, and then by the second. The sort is stable: equal scores stay in the
    # rising order of their rows.
    order = np.argsort(queries - 1j * values, kind="stable")
    firsts = np.searchsorted(queries, np.arange(scores.shape[1]), sorter=order)
    picked = order[firsts[:, None] + np.arange(k)]
    return rows[picked], values[picked]


def floor(scores: NDArray[Any], k: int) -> NDArray[Any]:
    """A score for each query [n] that at least k of the items reach, and few more.

    The k-th largest of the maxima of disjoint groups is such a score. Maxima are one pass in vector registers, many
    times faster than a partition of all scores, which is left for few items.
    """
    items, queries = scores.shape
    size = min(_GROUP, items // (2 * k))
    if size > 1:
        groups = items // size
        scores = scores[: groups * size].reshape(size, groups * queries).max(axis=0).reshape(groups, queries)
    width = len(scores)
    found: NDArray[Any] = np.partition(scores.T, width - k, axis=1)[:, width - k]
    return found
