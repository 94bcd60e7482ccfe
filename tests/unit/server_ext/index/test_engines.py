"""Engines against a NumPy reference."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines import engine as engine_module
from recserve_server_ext.index.engines import exact as exact_engine
from recserve_server_ext.index.engines.engine import Found, PartedSearch
from recserve_server_ext.index.engines.exact import ExactEngine, best
from recserve_server_ext.index.engines.hnsw import GRAPH, HnswEngine
from recserve_server_ext.index.engines.scan import CODES, ScanEngine
from recserve_server_ext.index.engines.scan_fit import Fit
from support.examples import examples

DIM = 16


def unit(count: int, *, seed: int, dim: int = DIM) -> Vectors:
    """Random unit vectors, [count, dim]."""
    vectors = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    result: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def reference(scores: Vectors, k: int) -> NDArray[np.int64]:
    """The k best of each line, ties by the lower row, by a stable sort of everything."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    return unit(2000, seed=1)


@pytest.fixture(scope="module")
def hnsw(vectors: Vectors) -> HnswEngine:
    return HnswEngine.build(vectors, m=16, ef_construction=200, ef=64, threads=2)


@examples(200)
@given(
    scores=st.tuples(st.integers(0, 4), st.integers(1, 300)).flatmap(
        # Few distinct values: most examples have ties at the k-th place.
        lambda shape: hnp.arrays(np.float32, shape, elements=st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0]))
    ),
    k=st.integers(1, 300),
)
def test_best_is_a_stable_sort_of_everything(scores: Vectors, k: int) -> None:
    k = min(k, scores.shape[1])
    rows, values = best(np.ascontiguousarray(scores.T), k)
    np.testing.assert_array_equal(rows, reference(scores, k))
    np.testing.assert_array_equal(values, np.take_along_axis(scores, rows, axis=1))


@pytest.mark.parametrize("items", [1, 9, 63, 64, 65, 1281, 5000])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_exact_finds_the_best_of_any_number_of_items(items: int, k: int) -> None:
    vectors, queries = unit(items, seed=2), unit(7, seed=3)
    rows, scores = ExactEngine(vectors).search(queries, k)
    found = min(k, items)
    assert rows.shape == scores.shape == (7, k)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(rows[:, :found], reference(queries @ vectors.T, found))
    assert (rows[:, found:] == -1).all()
    assert np.isneginf(scores[:, found:]).all()


def test_exact_in_blocks_is_exact_in_one(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> None:
    queries = unit(23, seed=4)
    rows, scores = ExactEngine(vectors).search(queries, 10)
    monkeypatch.setattr(exact_engine, "_BLOCK_SCORES", 5 * len(vectors))
    blocked, blocked_scores = ExactEngine(vectors).search(queries, 10)
    np.testing.assert_array_equal(blocked, rows)
    np.testing.assert_allclose(blocked_scores, scores, atol=1e-6)


def test_exact_breaks_ties_by_row() -> None:
    vectors = np.repeat(unit(3, seed=5), 100, axis=0)
    rows, _ = ExactEngine(vectors).search(vectors[100:101], 5)
    assert rows.tolist() == [[100, 101, 102, 103, 104]]


def test_no_items() -> None:
    rows, scores = ExactEngine(np.empty((0, DIM), np.float32)).search(unit(2, seed=6), 3)
    assert rows.tolist() == [[-1] * 3] * 2
    assert np.isneginf(scores).all()


def test_hnsw_finds_what_exact_finds(hnsw: HnswEngine, vectors: Vectors) -> None:
    queries = unit(200, seed=7)
    rows, scores = hnsw.search(queries, 10, ef=500)
    expected, expected_scores = ExactEngine(vectors).search(queries, 10)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    assert np.mean(rows == expected) > 0.99
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert np.mean(np.abs(scores - expected_scores) < 1e-6) > 0.99


def test_hnsw_wider_search_finds_more(hnsw: HnswEngine, vectors: Vectors) -> None:
    queries = unit(200, seed=8)
    expected, _ = ExactEngine(vectors).search(queries, 10)
    recalls = [float(np.mean(hnsw.search(queries, 10, ef=ef)[0] == expected)) for ef in (10, 50, 400)]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


def test_hnsw_default_width_comes_back_after_another(hnsw: HnswEngine) -> None:
    queries = unit(50, seed=9)
    before, _ = hnsw.search(queries, 10)
    hnsw.search(queries, 10, ef=10)
    np.testing.assert_array_equal(hnsw.search(queries, 10)[0], before)


def test_hnsw_k_above_ef_and_above_the_items(hnsw: HnswEngine, vectors: Vectors) -> None:
    queries = unit(3, seed=10)
    rows, _ = hnsw.search(queries, 500, ef=10)
    assert (rows >= 0).all()
    assert all(len(set(line)) == 500 for line in rows.tolist())
    rows, scores = hnsw.search(queries, len(vectors) + 5)
    np.testing.assert_array_equal(rows[:, :-5], reference(queries @ vectors.T, len(vectors)))
    assert (rows[:, -5:] == -1).all()
    assert np.isneginf(scores[:, -5:]).all()


def test_hnsw_answers_exactly_what_its_graph_does_not_reach() -> None:
    # Links to the two nearest only, among tight clusters: most of the items cannot be reached from the entry point.
    centres = unit(40, seed=11)
    vectors = np.repeat(centres, 25, axis=0) + 1e-3 * unit(1000, seed=12)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    engine = HnswEngine.build(vectors, m=2, ef_construction=4, ef=10, threads=1)
    with pytest.raises(RuntimeError, match="contiguous"):
        engine._index.knn_query(vectors[:1], 900)
    rows, _ = engine.search(vectors[:1], 900)
    np.testing.assert_array_equal(rows, ExactEngine(vectors).search(vectors[:1], 900)[0])
    assert engine.search(vectors[:1], 5)[0].shape == (1, 5)


def test_hnsw_searches_of_different_widths_at_once_do_not_mix(hnsw: HnswEngine) -> None:
    queries = unit(20, seed=13)
    alone = {ef: hnsw.search(queries, 10, ef=ef)[0] for ef in (10, 40, 200)}
    wrong: list[int] = []

    def work(ef: int) -> None:
        answers = [hnsw.search(queries, 10, ef=ef)[0] for _ in range(100)]
        wrong.extend(ef for rows in answers if not np.array_equal(rows, alone[ef]))

    threads = [threading.Thread(target=work, args=(ef,)) for ef in (10, 40, 200, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


def test_a_search_is_split_where_each_thread_has_enough_to_do(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(step=0.001)  # what a thread does takes a millisecond, however much it is
    monkeypatch.setattr(engine_module, "thread_time", lambda: next(clock))
    lengths: list[int] = []

    def search(part: slice) -> Found:
        lengths.append(part.stop - part.start)
        return np.arange(part.start, part.stop)[:, None], vectors[part, :1]

    in_parts = PartedSearch(3, "test")
    for _ in range(100):
        in_parts(search, 1)  # a millisecond a query
    for queries in (0, 1, 3, 4, 9):
        lengths.clear()
        rows, scores = in_parts(search, queries)
        assert len(lengths) == max(1, min(3, queries // 2 if queries > 1 else 1))
        assert sum(lengths) == len(rows) == queries
        assert np.array_equal(scores, vectors[:queries, :1])
        monkeypatch.setattr(in_parts, "_query_s", 0.00101)


def test_a_split_search_ends_when_all_parts_have(monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts, has_ended = PartedSearch(2, "test"), threading.Event()
    monkeypatch.setattr(in_parts, "_query_s", 1.0)
    caller, has_failed = threading.current_thread(), threading.Event()

    def search(part: slice) -> Found:
        if threading.current_thread() is caller:
            has_failed.set()
            raise ValueError("no")
        assert has_failed.wait(60)
        has_ended.set()
        return np.empty((2, 1)), np.empty((2, 1), np.float32)

    with pytest.raises(ValueError, match="no"):
        in_parts(search, 4)
    assert has_ended.is_set()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("users", [1, 2, 3, 8, 12, 40])
def test_hnsw_finds_the_same_with_any_threads(hnsw: HnswEngine, vectors: Vectors, threads: int, users: int) -> None:
    queries = unit(users, seed=23)
    engine = HnswEngine(hnsw._index, vectors, hnsw.parameters, threads)
    engine._in_parts._query_s = 1.0  # so that every search is split
    rows, scores = engine.search(queries, 10)
    for number, query in enumerate(queries):
        row, score = engine.search(query[None], 10)
        np.testing.assert_array_equal(rows[number], row[0])
        np.testing.assert_array_equal(scores[number], score[0])


def test_hnsw_save_and_load(hnsw: HnswEngine, vectors: Vectors, tmp_path: Path) -> None:
    queries = unit(50, seed=14)
    hnsw.save(tmp_path)
    loaded = HnswEngine.load(tmp_path, vectors, hnsw.parameters, threads=1)
    assert loaded.parameters == {"M": 16, "ef_construction": 200, "ef": 64}
    (rows, scores), (expected, expected_scores) = loaded.search(queries, 10), hnsw.search(queries, 10)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(scores, expected_scores)


def test_hnsw_load_refuses_another_graph(hnsw: HnswEngine, vectors: Vectors, tmp_path: Path) -> None:
    hnsw.save(tmp_path)
    # hnswlib enlarges a graph without a word when more is asked for than it holds.
    with pytest.raises(SnapshotError, match=r"holds 2000 items, the vectors beside it 2001"):
        HnswEngine.load(tmp_path, unit(2001, seed=15), hnsw.parameters)
    (tmp_path / GRAPH).write_bytes((tmp_path / GRAPH).read_bytes()[:5000])
    with pytest.raises(SnapshotError, match=GRAPH):
        HnswEngine.load(tmp_path, vectors, hnsw.parameters)


@pytest.fixture(scope="module")
def scan(vectors: Vectors) -> ScanEngine:
    fit = Fit.to(unit(500, seed=24), vectors, rank=DIM)
    return ScanEngine.build(vectors, fit, lists=8, codes=DIM // 2, nprobe=4, rescored=80, threads=2)


@pytest.mark.parametrize("users", [1, 3, 50])
def test_scan_of_all_lists_finds_what_exact_finds(scan: ScanEngine, vectors: Vectors, users: int) -> None:
    queries = unit(users, seed=16)
    rows, scores = scan.with_parameters({"nprobe": 8, "rescored": 640}).search(queries, 10)
    expected, expected_scores = ExactEngine(vectors).search(queries, 10)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(rows, expected)
    # faiss sums the products in another order.
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_scan_scores_are_exact_and_falling(scan: ScanEngine, vectors: Vectors) -> None:
    queries = unit(40, seed=17)
    rows, scores = scan.search(queries, 10)
    np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()


def test_scan_of_more_finds_more(scan: ScanEngine, vectors: Vectors) -> None:
    queries = unit(200, seed=18)
    expected, _ = ExactEngine(vectors).search(queries, 10)

    def recall(nprobe: int, rescored: int) -> float:
        found, _ = scan.with_parameters({"nprobe": nprobe, "rescored": rescored}).search(queries, 10)
        return float(
            np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), expected.tolist(), strict=True)])
        )

    assert recall(1, 80) < recall(4, 80) < recall(8, 320)
    assert recall(8, 10) < recall(8, 320)
    wide, _ = scan.search(queries, 10, ef=2000)
    narrow, _ = scan.search(queries, 10, ef=10)
    assert np.mean(wide == expected) > np.mean(narrow == expected)


@pytest.mark.parametrize("k", [900, 1999, 2000, 2005])
def test_scan_gives_as_many_as_wanted(scan: ScanEngine, vectors: Vectors, k: int) -> None:
    """The four lists probed hold fewer."""
    rows, _ = scan.search(unit(6, seed=19), k)
    found = min(k, len(vectors))
    assert all(len(set(line)) == found for line in rows[:, :found].tolist())
    assert (rows[:, :found] >= 0).all()
    assert (rows[:, found:] == -1).all()


def test_scan_takes_from_all_items_what_its_lists_lack(vectors: Vectors) -> None:
    fit, queries = Fit.to(unit(500, seed=24), vectors, rank=DIM), unit(6, seed=25)
    scan = ScanEngine.build(vectors, fit, lists=64, codes=DIM // 2, nprobe=1, rescored=10, threads=2)
    np.testing.assert_array_equal(scan.search(queries, 100)[0], ExactEngine(vectors).search(queries, 100)[0])


def test_scan_of_a_sixteenth_of_the_items_is_exact(scan: ScanEngine, vectors: Vectors) -> None:
    """Beyond the ten items that its parameters are chosen for."""
    queries = unit(40, seed=26)
    rows, _ = scan.with_parameters({"nprobe": 1, "rescored": 40}).search(queries, 100)
    np.testing.assert_array_equal(rows, ExactEngine(vectors).search(queries, 100)[0])


def test_scan_is_the_same_from_many_threads_and_in_any_batch(scan: ScanEngine) -> None:
    queries = unit(64, seed=20)
    expected, _ = scan.search(queries, 10)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda start: scan.search(queries[start : start + 4], 10)[0], range(0, 64, 4)))
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_scan_save_and_load(scan: ScanEngine, vectors: Vectors, tmp_path: Path) -> None:
    queries = unit(50, seed=21)
    scan.save(tmp_path)
    loaded = ScanEngine.load(tmp_path, vectors, scan.parameters, threads=1)
    assert loaded.parameters == {"lists": 8, "codes": 8, "nprobe": 4, "rescored": 80}
    (rows, scores), (expected, expected_scores) = loaded.search(queries, 10), scan.search(queries, 10)
    np.testing.assert_array_equal(rows, expected)
    np.testing.assert_array_equal(scores, expected_scores)


def test_scan_load_refuses_other_codes(scan: ScanEngine, vectors: Vectors, tmp_path: Path) -> None:
    scan.save(tmp_path)
    with pytest.raises(SnapshotError, match=r"codes of 2000 items of 16 dimensions, the vectors beside it make \[2001"):
        ScanEngine.load(tmp_path, unit(2001, seed=22), scan.parameters)
    (tmp_path / CODES).write_bytes((tmp_path / CODES).read_bytes()[:5000])
    with pytest.raises(SnapshotError, match=CODES):
        ScanEngine.load(tmp_path, vectors, scan.parameters)
