"""Engines search a space: a batch of unit vectors in, the rows of the nearest items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from time import thread_time
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract.filters import Filter
from recserve_server_ext.common.arrays import Mask, Rows, Scores, Vectors

#: Rows or labels [n, k], and what they are ordered by [n, k].
Found = tuple[NDArray[Any], Scores]
#: CPU seconds of a search that are worth a thread of their own. Measured: docs/decisions/054-what-a-search-costs.md.
_LEAST_S: Final = 0.002
#: Weight of the newest search in the mean time of a query.
_NEWEST: Final = 0.1


class Engine(ABC):
    """Finds the items with the largest inner product; vectors are unit, so it is the cosine.

    An engine is built from, or loaded beside, the item vectors of a space, [items, dim].

    Attributes:
        name: Name in manifests and options: ``hnsw``, ``scan``, ``exact`` or ``milvus``.
        parameters: What it was built with and searches with by default; loading restores them.
    """

    name: ClassVar[str]
    parameters: dict[str, int]

    @abstractmethod
    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[Rows] = ()
    ) -> tuple[Rows, Scores]:
        """The k best items of every query; safe to call from several threads.

        Args:
            queries: [n, dim] unit float32, finite.
            k: At least 1; may exceed the number of items.
            ef: Width of an approximate search: candidates kept (hnsw) or scored exactly (scan); `None` for the
                engine's own. An exact engine ignores it.
            banned: Rows that each query must not find, each of at least 0; none for nobody.

        Returns:
            Rows [n, k] and scores [n, k], best first; row -1 and score -inf where there are fewer than k items.
        """

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what the engine needs besides the item vectors into an existing folder."""

    @abstractmethod
    def with_parameters(self, parameters: Mapping[str, int]) -> Self:
        """The same index with other search parameters; building parameters are ignored. Use only one of the two."""


class RemoteEngine(Engine):
    """An engine that several servers share over the network: it evaluates filters itself, and may be away."""

    @abstractmethod
    def check(self, where: Filter) -> None:
        """Refuse a filter that it cannot evaluate exactly, with RequestError(invalid_request)."""

    @abstractmethod
    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        ef: int | None = None,
        banned: Sequence[Rows] = (),
        where: Filter | None = None,
    ) -> tuple[Rows, Scores]:
        """As `Engine.search`, among the items of its own snapshot that match a filter that passed `check`.

        It may find fewer items than there are; retrieval then searches for all of them in this process.

        Raises:
            RequestError: unavailable.
        """

    @abstractmethod
    def forget(self, rows: Rows) -> None:
        """Note that these rows are never recommended again; returns at once, never raises."""

    @property
    @abstractmethod
    def forgetting(self) -> int:
        """Number of forgotten rows that are still to be deleted; any thread may ask."""


def no_results(queries: int, k: int) -> tuple[Rows, Scores]:
    """The answer where nothing was found: rows -1 and scores -inf, [queries, k] each."""
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def banned_places(rows: Rows, banned: Sequence[Rows], items: int) -> Mask:
    """Which of the rows [n, width] are banned for their query; row -1 is not.

    Args:
        rows: [n, width], less than `items`.
        banned: [n] rows of each query, from 0 to `items` - 1.
        items: Number of items.
    """
    marked = np.zeros(items + 1, np.bool_)  # the last for row -1
    places = np.empty(rows.shape, np.bool_)
    for found, of_query, line in zip(rows, banned, places, strict=True):
        marked[of_query] = True
        marked.take(found, out=line, mode="wrap")
        marked[of_query] = False
    return places


def without_banned(rows: Rows, scores: Scores, banned: Sequence[Rows], items: int, k: int) -> tuple[Rows, Scores]:
    """The first k of what was found that are not banned; both [n, k]. Arguments as of `banned_places`."""
    if not len(banned):
        return rows[:, :k], scores[:, :k]
    dropped = banned_places(rows, banned, items)
    order = np.argsort(dropped, axis=1, kind="stable")[:, :k]
    is_short = np.take_along_axis(dropped, order, axis=1)
    rows, scores = np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
    rows[is_short], scores[is_short] = -1, -np.inf
    return rows, scores


def most_banned(banned: Sequence[Rows]) -> int:
    """The most rows that are banned for one query."""
    return max(map(len, banned), default=0)


class PartedSearch:
    """Searches with several threads where each has enough to do: one more thread takes some .4 ms of CPU."""

    def __init__(self, threads: int, name: str) -> None:
        """
        Args:
            threads: Threads at most, the calling one among them.
            name: Prefix of the names of the others.
        """
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._query_s = 0.0

    def __call__(self, search: Callable[[slice], Found], queries: int) -> Found:
        """What a search finds for a number of queries; returns when all threads have ended.

        Args:
            search: Searches for a part of the queries; safe to call from several threads.
            queries: Number of queries.
        """
        parts = min(self.threads, queries, int(queries * self._query_s / _LEAST_S)) or 1
        bounds = [queries * part // parts for part in range(parts + 1)]
        first, *others = map(slice, bounds, bounds[1:])
        running = [self._pool.submit(search, part) for part in others]
        start_s = thread_time()
        try:
            found = [search(first)]
        finally:
            wait(running)
        # A mean of the last searches; other threads may write it, too, and any of the values will do.
        self._query_s += _NEWEST * ((thread_time() - start_s) / max(1, first.stop) - self._query_s)
        if not running:
            return found[0]
        found += [future.result() for future in running]
        return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])
