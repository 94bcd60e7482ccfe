"""The inverted lists of `scan`: which items they hold, and which of them a user's search looks into."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from recserve_export.index.recall import normalised_means, users_to_fit
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.scan import ScanEngine
from recserve_server_ext.index.engines.scan_fit import Fit
from recserve_server_ext.index.engines.scan_lists import SPREADS, Lists, training

ITEMS, DIM, LISTS = 6000, 32, 64


@pytest.fixture(scope="module")
def vectors() -> Vectors:
    """Unit vectors about 300 centres and a common mean, [6000, 32]."""
    random = np.random.default_rng(1)
    centres = random.normal(size=(300, DIM)) * np.geomspace(1, 0.2, DIM) + 0.4
    near = centres[random.integers(300, size=ITEMS)] + random.normal(size=(ITEMS, DIM)) * 0.25
    unit: Vectors = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    return unit


@pytest.fixture(scope="module")
def fit(vectors: Vectors) -> Fit:
    return Fit.to(users_to_fit(vectors, seed=0), vectors, rank=DIM)


@pytest.fixture(scope="module")
def users(vectors: Vectors) -> Vectors:
    """Users that nothing was fitted to, [400, 32]."""
    return normalised_means(vectors[np.random.default_rng(2).integers(ITEMS, size=(400, 20))])


@pytest.fixture(scope="module")
def lists(vectors: Vectors, fit: Fit) -> Lists:
    return Lists.of(vectors @ fit.items, LISTS)


def in_lists(items: Vectors, means: Vectors) -> Rows:
    """[items] list with the nearest mean."""
    rows: Rows = faiss.knn(items, means, 1)[1][:, 0]
    return rows


def test_a_spread_is_the_standard_deviation_of_what_users_score(
    lists: Lists, vectors: Vectors, fit: Fit, users: Vectors
) -> None:
    items = vectors @ fit.items
    of, queries = in_lists(items, lists.means), users @ fit.queries
    measured = [(queries @ (items[of == one] - lists.means[one]).T).std() for one in range(LISTS)]
    # Of users that nothing was fitted to, over lists of about a hundred items.
    np.testing.assert_allclose(lists.spreads, measured, rtol=0.15)


def test_of_lists_with_equal_means_the_wider_one_is_probed_first() -> None:
    means = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    lists = Lists(means, np.array([0.1, 0.2, 0.3, 0.9], np.float32))
    query = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], np.float32)
    assert lists.probed(query, 1).tolist() == [[3], [2]]
    assert np.sort(lists.probed(query, 2), axis=1).tolist() == [[1, 3], [2, 3]]
    assert np.sort(lists.probed(query, 4), axis=1).tolist() == [[0, 1, 2, 3]] * 2


def test_an_item_is_coded_in_the_list_with_the_nearest_mean(vectors: Vectors, fit: Fit) -> None:
    """So that the items of the probed lists, and no others, are found where all of them are scored."""
    scan = ScanEngine.build(vectors, fit, lists=LISTS, codes=DIM // 2, nprobe=3, rescored=ITEMS, threads=1)
    queries = vectors[:20]
    of = in_lists(vectors @ fit.items, scan._lists.means)
    probed = scan._lists.probed(queries @ fit.queries, 3)
    expected, _ = ExactEngine(vectors).search(queries, ITEMS)
    for query, (row,) in enumerate(scan.search(queries, 1)[0].tolist()):
        assert row == next(item for item in expected[query].tolist() if of[item] in probed[query])


def test_fewer_items_are_scanned_than_in_lists_by_direction(
    lists: Lists, vectors: Vectors, fit: Fit, users: Vectors
) -> None:
    """faiss's own lists for inner products are k-means on the sphere, in the order of the products with the means."""
    items, queries = vectors @ fit.items, users @ fit.queries
    best, _ = ExactEngine(vectors).search(users, 10)
    by_direction = faiss.Kmeans(DIM, LISTS, niter=10, seed=0, spherical=True)
    by_direction.train(items)

    def scanned(of: Rows, probed: Rows) -> float:
        """Items in as many lists as hold nine tenths of the best, a mean over the users."""
        places = np.argsort(probed, axis=1)
        needed = int(np.quantile(np.take_along_axis(places, of[best], axis=1), 0.9)) + 1
        return float(np.bincount(of, minlength=LISTS)[probed[:, :needed]].sum(axis=1).mean())

    of = by_direction.assign(items)[1]
    directed = scanned(of, np.argsort(-(queries @ by_direction.centroids.T), axis=1))
    every = np.stack([np.argsort(-_keys(lists, query)) for query in queries])
    assert scanned(in_lists(items, lists.means), every) < 0.8 * directed


def _keys(lists: Lists, query: Vectors) -> Vectors:
    """[lists] place in the order of probing, from the sets that `probed` gives; first largest."""
    keys = np.zeros(LISTS, np.float32)
    for nprobe in range(1, LISTS + 1):
        keys[lists.probed(query[None], nprobe)] += 1
    return keys


def test_the_same_seed_gives_the_same_lists_of_the_same_items(vectors: Vectors, fit: Fit, lists: Lists) -> None:
    again, other = (Lists.of(vectors @ fit.items, LISTS, seed) for seed in (0, 1))
    np.testing.assert_array_equal(again.means, lists.means)
    np.testing.assert_array_equal(again.spreads, lists.spreads)
    assert np.abs(other.means - lists.means).max() > 0.01
    rows = training(1_000_000, 4096)
    np.testing.assert_array_equal(rows, training(1_000_000, 4096))
    assert len(set(rows.tolist())) == 64 * 4096
    assert len(training(1000, 16)) == 1000


def test_a_user_finds_the_same_beside_any_others(vectors: Vectors, fit: Fit, users: Vectors) -> None:
    scan = ScanEngine.build(vectors, fit, lists=LISTS, codes=DIM // 2, nprobe=16, rescored=40, threads=1)
    expected = scan.search(users[:96], 10)[0]
    for batch in (1, 7, 16, 32):
        found = [scan.search(users[start : min(start + batch, 96)], 10)[0] for start in range(0, 96, batch)]
        np.testing.assert_array_equal(np.concatenate(found), expected)


def test_spreads_that_do_not_fit_are_refused(vectors: Vectors, fit: Fit, tmp_path: Path) -> None:
    scan = ScanEngine.build(vectors, fit, lists=8, codes=DIM // 2, nprobe=2, rescored=40, threads=1)
    scan.save(tmp_path)
    loaded = ScanEngine.load(tmp_path, vectors, scan.parameters, threads=1)
    np.testing.assert_array_equal(loaded._lists.means, scan._lists.means)
    np.testing.assert_array_equal(loaded._lists.spreads, scan._lists.spreads)
    for spreads, message in (
        (np.zeros(7, np.float32), r"spreads\.npy holds float32 \[7\], not float32 \[8\]; .*recserve index build"),
        (np.zeros(8), r"spreads\.npy holds float64 \[8\], not"),
    ):
        np.save(tmp_path / SPREADS, spreads)
        with pytest.raises(SnapshotError, match=message):
            ScanEngine.load(tmp_path, vectors, scan.parameters)
    (tmp_path / SPREADS).unlink()
    with pytest.raises(SnapshotError, match=r"spreads\.npy cannot be read"):
        ScanEngine.load(tmp_path, vectors, scan.parameters)
