"""What searches a space: a batch of unit vectors in, the rows of the nearest items out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, wait
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from recserve_client.contract.filters import Filter
from recserve_server_ext.common.arrays import Rows, Scores, Vectors

#: Rows or labels [n, k], and what they are ordered by [n, k].
Found = tuple[NDArray[Any], Scores]


class Engine(Protocol):
    """A way to find the items with the largest inner product; vectors are unit, so it is the cosine.

    Each engine is built from, or loaded beside, the item vectors of a snapshot, [items, dim].

    Attributes:
        name: What manifests and options call it: ``hnsw``, ``scan``, ``exact`` or ``milvus``.
    """

    name: str

    def search(self, queries: Vectors, k: int, *, ef: int | None = None) -> tuple[Rows, Scores]:
        """The k best items of every query; safe to call from several threads.

        Args:
            queries: [n, dim] unit float32, finite.
            k: At least 1; may exceed the number of items.
            ef: Width of an approximate search: candidates kept (hnsw) or scored exactly (scan); none = the engine's
                own. An exact engine ignores it.

        Returns:
            Rows [n, k] and scores [n, k], best first; row -1 and score -inf where there are fewer than k items.
        """
        ...

    def save(self, folder: Path) -> None:
        """Write what the engine needs besides the item vectors into an existing folder."""
        ...


class BuiltEngine(Engine, Protocol):
    """An engine that can be published in a snapshot.

    Attributes:
        parameters: What it was built with and searches with by default; loading gets them back.
    """

    parameters: dict[str, int]

    def with_parameters(self, parameters: Mapping[str, int]) -> Self:
        """The same index, searched with these; those it was built with are ignored. Use one of the two at a time."""
        ...


class RemoteEngine(ABC):
    """A `BuiltEngine` that several servers share, over the network: it evaluates filters itself, and may be away.

    A class of its own rather than a protocol, so that retrieval can tell it quickly from the engines in this process.

    Attributes:
        name: As of any engine.
        parameters: As of any built engine.
    """

    name: str
    parameters: dict[str, int]

    @abstractmethod
    def check(self, where: Filter) -> None:
        """Refuse a filter that it cannot evaluate exactly.

        Raises:
            RequestError: invalid_request.
        """

    @abstractmethod
    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, where: Filter | None = None
    ) -> tuple[Rows, Scores]:
        """As `Engine.search`, among the items of its own snapshot that match a filter that passed `check`.

        It may find fewer items than there are; retrieval then searches for all of them in this process.

        Raises:
            RequestError: unavailable.
        """

    @abstractmethod
    def forget(self, rows: Rows) -> None:
        """Take note that these rows are not going to be recommended again; returns at once, never raises."""

    @property
    @abstractmethod
    def forgetting(self) -> int:
        """Rows that `forget` was told of and that are still to be deleted there; any thread may ask."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """As `Engine.save`."""

    @abstractmethod
    def with_parameters(self, parameters: Mapping[str, int]) -> Self:
        """As `BuiltEngine.with_parameters`."""


def no_results(queries: int, k: int) -> tuple[Rows, Scores]:
    """The answer where nothing was found: rows -1 and scores -inf, [queries, k] each."""
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)


def search_in_parts(search: Callable[[Vectors], Found], queries: Vectors, parts: int, pool: Executor) -> Found:
    """Search for a batch with several threads, this one among them; returns when none of them searches any more.

    Args:
        search: Searches for a part of the queries, safe to call from several threads.
        queries: [n, dim].
        parts: At most n, unless n is 0.
        pool: Runs all parts but the first.
    """
    first, *others = np.array_split(queries, parts)
    running = [pool.submit(search, part) for part in others]
    try:
        found = [search(first)]
    finally:
        wait(running)
    found += [future.result() for future in running]
    return np.concatenate([rows for rows, _ in found]), np.concatenate([scores for _, scores in found])
