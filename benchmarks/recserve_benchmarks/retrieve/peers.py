"""HNSW graphs of other packages, as engines: faiss and usearch, built and searched with the parameters of `hnsw`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

import faiss
from usearch.index import Index as UsearchIndex

from recserve_export.index.engine_choice import Settings
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.index.engines.engine import Engine, PartedSearch


class PeerGraph(Engine):
    """A graph that is measured, never served; searches of one width at a time."""

    def __init__(self, vectors: Vectors, m: int, settings: Settings) -> None:
        """Build the graph.

        Args:
            vectors: [items, dim] unit float32.
            m: Links of an item on the upper levels; twice as many on the lowest.
            settings: Width of building, and the least width of a search.
        """
        self.parameters = {"M": m, "ef_construction": settings.ef_construction, "ef": settings.ef[0]}
        self._in_parts = PartedSearch(cpu.usable_cores(), self.name)
        self._index = self._build(vectors)

    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[Rows] = ()
    ) -> tuple[Rows, Scores]:
        """See `Engine.search`; there are more than k items, and none is banned."""
        assert not banned
        width = self.parameters["ef"] if ef is None else ef
        return self._in_parts(lambda part: self._search(queries[part], k, width), len(queries))

    def with_parameters(self, parameters: Mapping[str, int]) -> Self:
        """The same graph with another default `ef`."""
        found = copy(self)
        found.parameters = {**self.parameters, "ef": parameters["ef"]}
        return found

    def save(self, folder: Path) -> None:
        """Never asked."""
        raise NotImplementedError

    @abstractmethod
    def _build(self, vectors: Vectors) -> Any:
        """The package's index of [items, dim], with rows as ids, by all usable cores."""

    @abstractmethod
    def _search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Scores]:
        """Search with one thread; see `Engine.search`."""


class FaissGraph(PeerGraph):
    """`faiss.IndexHNSWFlat` by inner product."""

    name = "faiss_hnsw"

    def _build(self, vectors: Vectors) -> faiss.IndexHNSWFlat:
        index = faiss.IndexHNSWFlat(vectors.shape[1], self.parameters["M"], faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = self.parameters["ef_construction"]
        faiss.omp_set_num_threads(cpu.usable_cores())
        index.add(vectors)
        return index

    def _search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Scores]:
        faiss.omp_set_num_threads(1)  # of the calling thread only
        scores, rows = self._index.search(queries, k, params=faiss.SearchParametersHNSW(efSearch=ef))
        return rows, scores


class UsearchGraph(PeerGraph):
    """`usearch.index.Index` by inner product, of float32."""

    name = "usearch"

    def _build(self, vectors: Vectors) -> UsearchIndex:
        m, width = self.parameters["M"], self.parameters["ef_construction"]
        index = UsearchIndex(ndim=vectors.shape[1], metric="ip", dtype="f32", connectivity=m, expansion_add=width)
        index.add(range(len(vectors)), vectors, threads=cpu.usable_cores())
        return index

    def _search(self, queries: Vectors, k: int, ef: int) -> tuple[Rows, Scores]:
        self._index.expansion_search = ef
        found = self._index.search(queries, k, threads=1)
        shape = len(queries), k  # of one query it gives vectors
        return found.keys.astype("int64").reshape(shape), (1.0 - found.distances).reshape(shape)


PEERS: Final[tuple[type[PeerGraph], ...]] = (FaissGraph, UsearchGraph)
