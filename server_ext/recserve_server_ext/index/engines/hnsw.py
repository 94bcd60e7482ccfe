"""The `hnsw` engine: hnswlib, inner product on unit vectors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import hnswlib
import numpy as np

from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading
from recserve_server_ext.index.engines.engine import Engine, PartedSearch, most_banned, no_results, without_banned
from recserve_server_ext.index.engines.exact import ExactEngine

GRAPH = "graph.hnsw"
_BUILD_CHUNK = 4096


class HnswEngine(Engine):
    """A graph over the item vectors; hnswlib keeps its own copy of these in the graph file and in memory.

    Queries of one width run at the same time. A query of another width waits for them, since hnswlib has one `ef` for
    the whole index. Where the graph reaches fewer items than wanted, an exact engine over the same vectors answers.
    """

    name = "hnsw"

    def __init__(self, index: hnswlib.Index, vectors: Vectors, parameters: dict[str, int], threads: int) -> None:
        """Wrap an index with the rows of `vectors` as labels; see `build` and `load`."""
        self.parameters = parameters
        self._index = index
        self._items = len(vectors)
        self._exact = ExactEngine(vectors)
        self._ef = parameters["ef"]
        self._width = _Width(index, self._ef)
        self._in_parts = PartedSearch(threads, self.name)

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        *,
        m: int,
        ef_construction: int,
        ef: int,
        threads: int | None = None,
        seed: int = 100,
        done: Callable[[int], None] | None = None,
    ) -> HnswEngine:
        """Build the graph. With more than one thread it differs a little from run to run.

        Args:
            vectors: [items, dim] unit float32, at least one.
            m: Links of an item on the upper levels; twice as many on the lowest.
            ef_construction: Width of the search for an item's neighbours while it is added.
            ef: Default width of a search.
            threads: Threads of building and searching; by default the usable cores.
            seed: Seed of the levels of the items.
            done: Called with the number of items of every chunk, for progress bars.
        """
        threads = threads or cpu.usable_cores()
        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=m, ef_construction=ef_construction, random_seed=seed)
        index.set_num_threads(threads)
        for start in range(0, len(vectors), _BUILD_CHUNK):
            chunk = vectors[start : start + _BUILD_CHUNK]
            index.add_items(chunk, np.arange(start, start + len(chunk)))
            if done is not None:
                done(len(chunk))
        return cls(index, vectors, {"M": m, "ef_construction": ef_construction, "ef": ef}, threads)

    @classmethod
    def load(
        cls, folder: Path, vectors: Vectors, parameters: dict[str, int], *, threads: int | None = None
    ) -> HnswEngine:
        """Load the graph that `save` wrote beside the same vectors; raises SnapshotError where it does not fit them."""
        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        path = folder / GRAPH
        with reading(path, SnapshotError, REBUILD):
            index.load_index(str(path), max_elements=len(vectors))
        if index.element_count != len(vectors):
            raise SnapshotError(
                f"{path} holds {index.element_count} items, the vectors beside it {len(vectors)}; {REBUILD}"
            )
        return cls(index, vectors, dict(parameters), threads or cpu.usable_cores())

    def with_parameters(self, parameters: Mapping[str, int]) -> HnswEngine:
        """The same graph with another default `ef`. Use only one of the two: they share one hnswlib index."""
        chosen = {**self.parameters, "ef": parameters["ef"]}
        return HnswEngine(self._index, self._exact.vectors, chosen, self._in_parts.threads)

    def save(self, folder: Path) -> None:
        """Write the graph with hnswlib's copy of the vectors."""
        self._index.save_index(str(folder / GRAPH))

    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[Rows] = ()
    ) -> tuple[Rows, Scores]:
        """See `Engine.search`; hnswlib widens `ef` to what is looked for: k, and as many as are banned."""
        if not len(queries):
            return no_results(0, k)
        width = k + most_banned(banned)
        if width >= self._items:
            return self._exact.search(queries, k, banned=banned)
        self._width.enter(self._ef if ef is None else ef)
        try:
            labels, distances = self._in_parts(
                lambda part: self._index.knn_query(queries[part], k=width, num_threads=1), len(queries)
            )
        except RuntimeError:
            # "Cannot return the results in a contiguous 2D array": a query reached fewer items than that.
            return self._exact.search(queries, k, banned=banned)
        finally:
            self._width.leave()
        rows, scores = labels.view(np.int64), np.subtract(1.0, distances, out=distances)
        return without_banned(rows, scores, banned, self._items, k)


class _Width:
    """Lets searches of one `ef` run together, and changes it only while none runs."""

    def __init__(self, index: hnswlib.Index, ef: int) -> None:
        self._index = index
        self._ef = ef
        self._running = 0
        # Held while waiting for a change: later searches queue behind it and cannot keep it waiting for ever.
        self._turn = threading.Lock()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        index.set_ef(ef)

    def enter(self, ef: int) -> None:
        with self._turn, self._lock:
            if ef != self._ef:
                while self._running:
                    self._idle.wait()
                self._index.set_ef(ef)
                self._ef = ef
            self._running += 1

    def leave(self) -> None:
        with self._lock:
            self._running -= 1
            if not self._running:
                self._idle.notify()
