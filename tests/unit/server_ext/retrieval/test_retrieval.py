"""Retrieval gives k allowed items whenever there are k, and with an exact engine the very best ones."""

from collections.abc import Sequence
from typing import Self

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.index.engines.engine import Engine, without_banned
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.retrieval.search import CandidateSpec, search
from support.examples import examples


def unit(rng: np.random.Generator, rows: int, dim: int = 8) -> NDArray[np.float32]:
    vectors = rng.normal(size=(rows, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class Narrow(Engine):
    """An engine that finds only the first few rows, whatever is asked."""

    name = "narrow"

    def __init__(self, items: int) -> None:
        self._items = items

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        ef: int | None = None,
        banned: Sequence[NDArray[np.int64]] = (),
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        rows = np.full((len(queries), k), -1, np.int64)
        found = min(k, 3, self._items)
        rows[:, :found] = np.arange(found)
        scores = np.zeros((len(queries), k), np.float32)
        return without_banned(rows, scores, banned, self._items, k) if banned else (rows, scores)

    def save(self, folder: object) -> None:
        raise AssertionError("not used")

    def with_parameters(self, parameters: object) -> Self:
        raise AssertionError("not used")


@examples(60)
@given(seed=st.integers(0, 2**32 - 1), items=st.integers(1, 60), narrow=st.booleans(), data=st.data())
def test_the_best_allowed_items(seed: int, items: int, narrow: bool, data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    vectors, users = unit(rng, items), unit(rng, 4)
    available = rng.random(items) < data.draw(st.sampled_from([0.3, 0.9, 1.1]))
    exact = ExactEngine(vectors)
    wanted = [
        CandidateSpec(data.draw(st.integers(1, 70)), rng.integers(0, items, rng.integers(0, items + 1)), None)
        for _ in users
    ]
    found = search(view_over(vectors, Narrow(items) if narrow else exact, available=available).text, users, wanted)
    for user, want, rows in zip(users, wanted, found, strict=True):
        allowed = available.copy()
        allowed[want.banned] = False
        assert len(rows) == min(want.n, np.count_nonzero(allowed))
        assert allowed[rows].all()
        assert len(set(rows.tolist())) == len(rows)
        best = np.sort((vectors @ user)[allowed])[::-1][: len(rows)]
        if not narrow or len(rows) > 3:
            # float32 sums in another order: 1e-6.
            assert np.allclose((vectors @ user)[rows], best, atol=1e-6)


def test_each_ef_is_passed_on() -> None:
    vectors = unit(np.random.default_rng(0), 20)
    seen: list[tuple[int, int | None]] = []

    class Watching(ExactEngine):
        def search(
            self,
            queries: NDArray[np.float32],
            k: int,
            *,
            ef: int | None = None,
            banned: Sequence[NDArray[np.int64]] = (),
        ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
            seen.append((len(queries), ef))
            return super().search(queries, k, ef=ef, banned=banned)

    nobody = np.empty(0, np.int64)
    exact = Watching(vectors)
    wanted = [CandidateSpec(5, nobody, None), CandidateSpec(5, nobody, 64), CandidateSpec(5, nobody, None)]
    search(view_over(vectors, exact).text, vectors[:3], wanted)
    assert sorted(seen, key=str) == [(1, 64), (2, None)]
