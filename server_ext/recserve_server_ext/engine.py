"""What searches a space: a batch of unit vectors in, the rows of the nearest items out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Rows = NDArray[np.int64]
Scores = NDArray[np.float32]


class Engine(Protocol):
    """A way to find the items with the largest inner product; vectors are unit, so it is the cosine.

    Each engine is built from, or loaded beside, the item vectors of a snapshot, [items, dim].

    Attributes:
        name: What manifests and options call it: ``hnsw``, ``scan`` or ``exact``.
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


def no_results(queries: int, k: int) -> tuple[Rows, Scores]:
    """The answer where nothing was found: rows -1 and scores -inf, [queries, k] each."""
    return np.full((queries, k), -1, np.int64), np.full((queries, k), -np.inf, np.float32)
