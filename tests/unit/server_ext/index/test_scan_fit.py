"""Codes of `scan` that are fitted to user vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from recserve_export.index.recall import Users, normalised_means, recall_of, sample_users, users_to_fit
from recserve_server_ext.common.arrays import Scores, Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.scan import CODES, ScanEngine
from recserve_server_ext.index.engines.scan_fit import FITTED, Fit

DIM = 32


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """Unit vectors about a common mean, some directions much wider than others, as encoders make them, [4000, 32]."""
    random = np.random.default_rng(1)
    wide = random.normal(size=(4000, DIM)) * np.geomspace(1, 0.05, DIM)
    turned = (wide + 0.3) @ np.linalg.qr(random.normal(size=(DIM, DIM)))[0]
    unit: Vectors = (turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def to_fit(vectors: Vectors) -> Vectors:
    return users_to_fit(vectors, seed=0)


@pytest.fixture(scope="module")
def users(vectors: Vectors) -> Users:
    return sample_users(vectors, count=200, seed=0)


def lost(fit: Fit, queries: Vectors, vectors: Vectors) -> float:
    """Mean of the squared errors of the inner products."""
    return float(np.mean((queries @ vectors.T - (queries @ fit.queries) @ (vectors @ fit.items).T) ** 2))


def test_all_dimensions_keep_every_inner_product(vectors: Vectors, to_fit: Vectors) -> None:
    fit = Fit.to(to_fit, vectors, rank=DIM)
    np.testing.assert_allclose(fit.queries @ fit.items.T, np.eye(DIM), atol=1e-4)


@pytest.mark.parametrize("rank", [4, 8, 16])
def test_fewer_dimensions_lose_less_than_those_of_either_side_alone(
    vectors: Vectors, to_fit: Vectors, rank: int
) -> None:
    fitted = lost(Fit.to(to_fit, vectors, rank=rank), to_fit, vectors)
    for side in (vectors, to_fit):
        axes = np.linalg.eigh(side.T @ side)[1][:, -rank:]
        assert fitted < lost(Fit(axes, axes), to_fit, vectors)


def test_the_same_seed_gives_the_same_and_another_only_another_rotation(vectors: Vectors, to_fit: Vectors) -> None:
    first, again, other = (Fit.to(to_fit, vectors, rank=8, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(np.stack(first), np.stack(again))
    assert np.abs(first.queries - other.queries).max() > 0.1
    np.testing.assert_allclose(first.queries @ first.items.T, other.queries @ other.items.T, atol=1e-4)


def test_users_to_fit_are_not_those_that_are_measured(users: Users, to_fit: Vectors, vectors: Vectors) -> None:
    measured = {row.tobytes() for kind in users.vectors.values() for row in kind}
    assert measured.isdisjoint(row.tobytes() for row in to_fit)
    np.testing.assert_array_equal(to_fit, users_to_fit(vectors, seed=0))
    np.testing.assert_allclose(np.linalg.norm(to_fit, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("codes", [DIM // 4, DIM // 2])
def test_fitted_codes_find_more_for_users_and_score_exactly(
    vectors: Vectors, to_fit: Vectors, users: Users, codes: int
) -> None:
    build = partial(ScanEngine.build, vectors, lists=8, codes=codes, nprobe=8, rescored=20, threads=1)
    as_they_are = Fit(np.eye(DIM, dtype=np.float32), np.eye(DIM, dtype=np.float32))
    fitted, plain = build(Fit.to(to_fit, vectors, rank=2 * codes)), build(as_they_are)
    for kind, queries in users.vectors.items():
        rows, scores = fitted.search(queries, 10)
        np.testing.assert_allclose(scores, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
        recalls = [recall_of(found, users.last[kind]).mean() for found in (scores, plain.search(queries, 10)[1])]
        assert recalls[0] > recalls[1]


def test_save_and_load(vectors: Vectors, to_fit: Vectors, users: Users, tmp_path: Path) -> None:
    fit = Fit.to(to_fit, vectors, rank=16)
    engine = ScanEngine.build(vectors, fit, lists=8, codes=8, nprobe=4, rescored=40, threads=1)
    engine.save(tmp_path)
    np.testing.assert_array_equal(np.stack(Fit.load(tmp_path, DIM)), np.stack(fit))
    loaded = ScanEngine.load(tmp_path, vectors, engine.parameters, threads=1)
    found, expected = (one.search(users.vectors["random"], 10) for one in (loaded, engine))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_codes_taken_over_are_those_of_the_same_training(vectors: Vectors, to_fit: Vectors, tmp_path: Path) -> None:
    """Items leave, come and change their rows, several times over: every item has the code that it would get anew."""
    random = np.random.default_rng(3)
    fit = Fit.to(to_fit, vectors, rank=16)
    numbers = np.sort(random.choice(len(vectors), 2000, replace=False))
    engine = ScanEngine.build(vectors[numbers], fit, lists=8, codes=8, nprobe=8, rescored=40, threads=1)
    added = 0
    for count in (1900, 2051, 2300):
        engine.save(tmp_path)
        before, numbers = numbers, random.choice(len(vectors), count, replace=False)
        place_of = np.full(len(vectors), -1)
        place_of[before] = np.arange(len(before))
        places = place_of[numbers]
        assert 0 < np.count_nonzero(places < 0) < count
        engine = ScanEngine.taken_over(tmp_path, vectors[numbers], engine.parameters, places, threads=1)
        added += int(np.count_nonzero(places < 0))
        assert engine.parameters["added"] == added
        anew = faiss.read_index(str(tmp_path / CODES))
        anew.reset()
        anew.add(vectors[numbers] @ fit.items)
        np.testing.assert_array_equal(_products(engine._index, to_fit, fit), _products(anew, to_fit, fit))


def _products(index: faiss.Index, users: Vectors, fit: Fit) -> Scores:
    """[users, items] what the codes say of the product of each user and item."""
    scores, rows = index.search(users[:50] @ fit.queries, index.ntotal, params=faiss.SearchParametersIVF(nprobe=8))
    assert (np.sort(rows, axis=1) == np.arange(index.ntotal)).all()
    by_row: Scores = np.take_along_axis(scores, np.argsort(rows, axis=1), axis=1)
    return by_row


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (np.zeros((2, DIM + 1, 8), np.float32), r"float32 \[2, 33, 8\], not float32 \[2, 32, rank\]"),
        (np.zeros((3, DIM, 8), np.float32), r"float32 \[3, 32, 8\], not"),
        (np.zeros((2, DIM, 8)), r"float64 \[2, 32, 8\], not"),
        (np.zeros((2, DIM, 8), np.float32), r"items of 16 dimensions, the vectors beside it make \[4000, 8\]"),
    ],
)
def test_another_fit_is_refused(
    vectors: Vectors, to_fit: Vectors, tmp_path: Path, pair: NDArray[np.float32], message: str
) -> None:
    fit = Fit.to(to_fit, vectors, rank=16)
    engine = ScanEngine.build(vectors, fit, lists=2, codes=8, nprobe=2, rescored=40, threads=1)
    engine.save(tmp_path)
    np.save(tmp_path / FITTED, pair)
    with pytest.raises(SnapshotError, match=message):
        ScanEngine.load(tmp_path, vectors, engine.parameters)


def test_a_fit_that_is_cut_off_or_gone_is_refused(vectors: Vectors, tmp_path: Path) -> None:
    Fit.to(normalised_means(vectors[:40].reshape(10, 4, DIM)), vectors, rank=4).save(tmp_path)
    (tmp_path / FITTED).write_bytes((tmp_path / FITTED).read_bytes()[:200])
    with pytest.raises(SnapshotError, match=r"fitted\.npy cannot be read"):
        Fit.load(tmp_path, DIM)
    (tmp_path / FITTED).unlink()
    with pytest.raises(SnapshotError, match=r"fitted\.npy cannot be read: .*recserve index build"):
        Fit.load(tmp_path, DIM)
