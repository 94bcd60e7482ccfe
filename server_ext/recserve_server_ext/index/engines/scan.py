"""The `scan` engine: faiss's 4-bit codes of the items in inverted lists; the best by code are scored exactly.

User vectors are means and lie off the data, where a graph loses its way; for a scan of short codes it does not matter
where a query lies. The codes are those of "Quicker ADC" (Andre, Kermarrec, Le Scouarnec 2019), in faiss `IVF,PQx4fs`,
of item vectors made shorter by a fit to user vectors; see `recserve_server_ext.index.engines.scan_fit`. The lists are
those of `recserve_server_ext.index.engines.scan_lists`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from recserve_server_ext.common.arrays import Rows, Scores, Vectors

# Training has many short parallel steps. Between them OpenMP's threads would spin for minutes where other programs use
# the CPU, unless they are told to sleep before their library is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import faiss

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.index.engines.engine import Engine, PartedSearch, banned_places, most_banned
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.inner_products import products_by_row
from recserve_server_ext.index.engines.scan_codes import renumber
from recserve_server_ext.index.engines.scan_fit import Fit
from recserve_server_ext.index.engines.scan_lists import Lists, training

CODES = "codes.faiss"
#: Training vectors that faiss asks for a centre; a code has 16 centres.
_TRAINING_PER_CENTRE = 39
LEAST_ITEMS = 16 * _TRAINING_PER_CENTRE
#: The items scored exactly grow with this power of k, beyond ten wanted. Measured (65,000 items, dim 384): recall .985
#: for random users needs 220 of them for 10 wanted, 384 for 32, 800 for 100 and 1,650 for 300.
_GROWTH = 0.6
#: Items wanted when the parameters of an index are chosen.
_CHOSEN_FOR: Final = 10
#: Where more are wanted, and more than this share of the items would be scored exactly, all are: one product is cheaper
#: than codes and so many look-ups. Measured (10,000 items, batches of 16): the costs are equal at 1/22 of dim 64, 1/16
#: of 128, 1/10 of 384.
_ALL_FROM: Final = 1 / 16
_CHUNK = 65_536


class ScanEngine(Engine):
    """Short codes in inverted lists, and exact scores from the item vectors, which are not copied.

    Where the probed lists hold fewer items than wanted, or many would be scored exactly, an exact engine answers.
    """

    name = "scan"

    def __init__(
        self, index: faiss.Index, fit: Fit, lists: Lists, vectors: Vectors, parameters: dict[str, int], threads: int
    ) -> None:
        """Wrap a faiss index of the shortened `vectors` with their rows as ids; see `build` and `load`."""
        self.parameters = parameters
        self._fit = fit
        self._lists = lists
        self._index = index
        self._vectors = vectors
        self._exact = ExactEngine(vectors)
        self._probing = faiss.SearchParametersIVF(nprobe=parameters["nprobe"])
        # Not OpenMP's threads, which may spin while idle.
        self._in_parts = PartedSearch(threads, self.name)

    @classmethod
    def build(
        cls,
        vectors: Vectors,
        fit: Fit,
        *,
        lists: int,
        codes: int,
        nprobe: int,
        rescored: int,
        threads: int | None = None,
        done: Callable[[int], None] = lambda _: None,
    ) -> ScanEngine:
        """Train the codes on these items, and store the codes of all.

        Args:
            vectors: [items, dim] unit float32, at least `LEAST_ITEMS`.
            fit: Fit to user vectors; candidates depend on it, scores do not.
            lists: Number of inverted lists.
            codes: Number of 4-bit codes of an item, each of `rank / codes` dimensions; divides the rank of `fit`.
            nprobe: Lists that a search looks into, at most `lists`.
            rescored: Items scored exactly where ten are wanted; for other numbers see `_GROWTH`.
            threads: Threads of building and searching; by default the usable cores.
            done: Called with the number of items of every chunk, for progress bars.
        """
        threads = threads or cpu.usable_cores()
        faiss.omp_set_num_threads(threads)
        trained_on = vectors[training(len(vectors), lists)] @ fit.items
        by_mean = Lists.of(trained_on, lists)
        nearest = faiss.IndexFlatL2(fit.rank)
        nearest.add(by_mean.means)
        index = faiss.IndexIVFPQFastScan(nearest, fit.rank, lists, codes, 4, faiss.METRIC_INNER_PRODUCT)
        index.train(trained_on)
        _add(index, fit, vectors, np.arange(len(vectors)), done)
        parameters = {"lists": lists, "codes": codes, "nprobe": nprobe, "rescored": rescored}
        return cls(index, fit, by_mean, vectors, parameters, threads)

    @classmethod
    def taken_over(
        cls,
        folder: Path,
        vectors: Vectors,
        parameters: Mapping[str, int],
        places: Rows,
        *,
        threads: int | None = None,
    ) -> ScanEngine:
        """The engine that `save` wrote, over other vectors; only those that are new are coded, by the same training.

        Args:
            folder: Where the engine was saved.
            vectors: [items, dim] unit float32.
            parameters: Parameters of that engine; `added` counts the items that were coded since the training.
            places: [items] place there of the same vector; -1 for those that are new.
            threads: Threads of coding and searching; by default the usable cores.
        """
        threads = threads or cpu.usable_cores()
        faiss.omp_set_num_threads(threads)
        fit, index = Fit.load(folder, vectors.shape[1]), _read(folder)
        row_of = np.full(index.ntotal, -1, np.int64)
        row_of[places[places >= 0]] = np.flatnonzero(places >= 0)
        renumber(index, row_of)
        new = np.flatnonzero(places < 0)
        _add(index, fit, vectors, new)
        added = parameters.get("added", 0) + len(new)
        lists = Lists.load(folder, _means(index))
        return cls(index, fit, lists, vectors, {**parameters, "added": added}, threads)

    @classmethod
    def load(
        cls, folder: Path, vectors: Vectors, parameters: dict[str, int], *, threads: int | None = None
    ) -> ScanEngine:
        """Load the codes and the fit that `save` wrote beside the same vectors; raises SnapshotError for others."""
        fit = Fit.load(folder, vectors.shape[1])
        index = _read(folder)
        if (index.ntotal, index.d) != (len(vectors), fit.rank):
            raise SnapshotError(
                f"{folder / CODES} holds the codes of {index.ntotal} items of {index.d} dimensions, the vectors beside "
                f"it make {[len(vectors), fit.rank]}; {REBUILD}"
            )
        lists = Lists.load(folder, _means(index))
        return cls(index, fit, lists, vectors, dict(parameters), threads or cpu.usable_cores())

    def with_parameters(self, parameters: Mapping[str, int]) -> ScanEngine:
        """The same codes with another `nprobe` and `rescored`."""
        searched = {name: parameters[name] for name in ("nprobe", "rescored")}
        return ScanEngine(
            self._index, self._fit, self._lists, self._vectors, {**self.parameters, **searched}, self._in_parts.threads
        )

    def save(self, folder: Path) -> None:
        """Write the codes, the fit and the spreads of the lists."""
        self._fit.save(folder)
        self._lists.save(folder)
        faiss.write_index(self._index, str(folder / CODES))

    def search(
        self, queries: Vectors, k: int, *, ef: int | None = None, banned: Sequence[Rows] = ()
    ) -> tuple[Rows, Scores]:
        """See `Engine.search`; `ef` items are scored exactly, at least k. Banned ones are not scored."""
        items = len(self._vectors)
        wanted = self.parameters["rescored"] * max(1.0, k / _CHOSEN_FOR) ** _GROWTH if ef is None else ef
        scored = min(max(k, round(wanted)), items)
        if k >= items or (k > _CHOSEN_FOR and scored > _ALL_FROM * items):
            return self._exact.search(queries, k, banned=banned)
        return self._in_parts(lambda part: self._search_part(queries[part], k, scored, banned[part]), len(queries))

    def _search_part(self, queries: Vectors, k: int, scored: int, banned: Sequence[Rows]) -> tuple[Rows, Scores]:
        """One thread's share of a search."""
        faiss.omp_set_num_threads(1)  # of the calling thread only
        # As many more as are banned, so that the best by code of the others are among them, whatever is banned.
        candidates = min(scored + most_banned(banned), len(self._vectors))
        fitted = queries @ self._fit.queries
        rows = self._candidates(fitted, self._lists.probed(fitted, self.parameters["nprobe"]), candidates)
        if candidates > scored:
            rows[banned_places(rows, banned, len(self._vectors))] = -1
            rows[np.cumsum(rows >= 0, axis=1) > scored] = -1
        rows, scores = _best(rows, products_by_row(queries, self._vectors, rows), k)
        short = np.flatnonzero(rows[:, -1] < 0)
        if len(short):
            of_short = [banned[query] for query in short] if len(banned) else ()
            rows[short], scores[short] = self._exact.search(queries[short], k, banned=of_short)
        return rows, scores

    def _candidates(self, fitted: Vectors, probed: Rows, count: int) -> Rows:
        """[n, count] rows with the best codes in the lists [n, nprobe] of each query, best first, then -1."""
        rows = np.empty((len(fitted), count), np.int64)
        unused = np.empty(probed.shape, np.float32), np.empty(rows.shape, np.float32)
        arrays = (np.ascontiguousarray(probed), *unused, rows)
        self._index.search_preassigned_c(
            len(fitted), faiss.swig_ptr(fitted), count, *map(faiss.swig_ptr, arrays), False, self._probing
        )
        return rows


def _means(index: faiss.IndexIVF) -> Vectors:
    """[lists, rank] means of the lists, in the memory of the index."""
    means = faiss.downcast_index(index.quantizer)
    flat: Vectors = faiss.rev_swig_ptr(means.get_xb(), means.ntotal * means.d)
    return flat.reshape(means.ntotal, means.d)


def _read(folder: Path) -> faiss.Index:
    path = folder / CODES
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2].splitlines()[0]  # without a place in faiss's sources
        raise SnapshotError(f"{path} cannot be read: {reason}; {REBUILD}") from error


def _add(
    index: faiss.Index, fit: Fit, vectors: Vectors, rows: Rows, done: Callable[[int], None] = lambda _: None
) -> None:
    """Code the vectors of these rows, and add them to the index."""
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        index.add_with_ids(vectors[part] @ fit.items, part)
        done(len(part))


def _best(rows: Rows, scores: Scores, k: int) -> tuple[Rows, Scores]:
    """The k best of each line, best first."""
    lines = np.arange(len(rows))[:, None]
    if rows.shape[1] > k:
        picked = (-scores).argpartition(k - 1, axis=1)[:, :k]
        rows, scores = rows[lines, picked], scores[lines, picked]
    order = (-scores).argsort(axis=1)
    return rows[lines, order], scores[lines, order]
