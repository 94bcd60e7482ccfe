"""Nearest users: against all users one by one, explanations, live changes, snapshots that take the model over."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recserve_export.index.spaces import models_of
from recserve_export.training.base import TrainingLog
from recserve_export.training.registry import train
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.strategies.base import Candidates, Query
from recserve_server_ext.strategies.parts import scatter
from recserve_server_ext.strategies.registry import Registry
from recserve_server_ext.strategies.user_knn import UserKnnOptions, _nearest
from support.data import data_over
from support.edited import Edited
from support.published import query_of, ranked, rows_of, serving
from support.training_logs import log_of

ITEMS = 30
HISTORY = ["i3", "i1", "i7"]


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=ITEMS)
    yield edited
    edited.store.close()


@pytest.fixture
def log() -> TrainingLog:
    return log_of(80, ITEMS, 900)


def with_options(query: Query, **options: float) -> Query:
    return query.with_options(UserKnnOptions(**options))  # type: ignore[arg-type]


def test_scores_are_sums_of_the_cosines_of_the_nearest_users(edited: Edited, log: TrainingLog) -> None:
    view = serving(edited, log, {"user_knn": train("user_knn", log, None)}).view()
    seen, weights = log.seen.toarray().astype(np.float64), np.zeros(ITEMS)
    for newer, name in enumerate(HISTORY):
        weights[int(name[1:])] = 2.0 ** (-newer / 4.0)
    cosines = seen @ weights / np.linalg.norm(weights) / np.maximum(np.linalg.norm(seen, axis=1), 1e-9)
    # Of equal users the one with the newer behaviour counts.
    newest = np.array([log.time_us[log.user == user].max(initial=-1) for user in range(log.users)])
    nearest = np.lexsort([-newest, -cosines.round(12)])[:7]
    expected = cosines[nearest] @ seen[nearest]
    query = with_options(query_of(view, HISTORY, "user_knn"), half_life=4.0, neighbours=7)
    strategy = Registry().choose("user_knn", {}).strategy
    rows = rows_of(view, [f"i{n}" for n in range(ITEMS)])
    (parts,) = strategy.score([query], [Candidates(rows)])
    np.testing.assert_allclose(parts["user_knn"], expected, atol=1e-9)
    (best,) = strategy.candidates([query], [5])
    scores = parts["user_knn"][[int(name[1:]) for name in view.ids(best)]]
    np.testing.assert_allclose(scores, sorted(expected)[:-6:-1], atol=1e-9)


@pytest.mark.parametrize("length", [3, 200])
def test_behaviours_add_up_to_the_score(edited: Edited, log: TrainingLog, length: int) -> None:
    learned = train("user_knn", log, None, {"most_of_item": 5, "most_of_user": 6})
    view = serving(edited, log, {"user_knn": learned}).view()
    names = [f"i{n % 27}" for n in range(length - 1)] + ["unknown"]
    rows = rows_of(view, [f"i{n}" for n in range(ITEMS)])
    query, own = query_of(view, names, "user_knn"), Registry().choose("user_knn", {}).strategy
    (parts,) = own.score([query], [Candidates(rows)])
    (explained,) = own.explain([query], [Candidates(rows)])
    assert explained.contributions is not None
    assert explained.contributions.any()
    np.testing.assert_allclose(explained.contributions.sum(axis=1), parts["user_knn"], atol=1e-9)
    assert not explained.contributions[:, -1].any()


def test_changed_items_keep_their_users_and_deleted_ones_go(edited: Edited, log: TrainingLog) -> None:
    live = serving(edited, log, {"user_knn": train("user_knn", log, None)})
    before = ranked(live.view(), HISTORY, "user_knn")
    edited.change("upsert", [{"id": "i1", "texts": {"title": "other"}}, {"id": before[0], "texts": {"title": "more"}}])
    edited.change("delete", [{"id": before[-1]}])
    assert ranked(live.view(), HISTORY, "user_knn") == before[:-1]


def test_users_without_neighbours_are_cold(edited: Edited, log: TrainingLog) -> None:
    view = serving(edited, log, {"user_knn": train("user_knn", log, None)}).view()
    strategy = Registry().choose("user_knn", {}).strategy
    queries = [query_of(view, names, "user_knn") for names in (["i29"], ["unknown"], ["i1"])]
    assert [reason is not None for reason in strategy.cold(queries)] == [True, True, False]


def test_users_and_their_items_are_bounded(log: TrainingLog) -> None:
    learned = train("user_knn", log, None, {"most_users": 10, "most_of_user": 3, "most_of_item": 2})
    assert learned.model is not None
    by_user, by_item = (np.diff(learned.model[f"offsets_by_{of}"]) for of in ("user", "item"))
    assert len(by_user) == 10
    assert by_user.max() == 3
    assert by_item.max() == 2


def test_a_snapshot_over_other_items_takes_the_model_over(edited: Edited, log: TrainingLog) -> None:
    serving(edited, log, {"user_knn": train("user_knn", log, None)})
    folder = current(edited.snapshots)
    snapshot = Snapshot.load(folder)
    taken = models_of(folder, snapshot.manifest)["user_knn"]
    assert snapshot.manifest.trained == {"user_knn": taken.version}
    assert taken.ids == snapshot.models["user_knn"].ids
    for name, array in snapshot.models["user_knn"].arrays.items():
        np.testing.assert_array_equal(array, taken.arrays[name])


def test_a_changed_bit_is_found(edited: Edited, log: TrainingLog) -> None:
    serving(edited, log, {"user_knn": train("user_knn", log, None)})
    file = current(edited.snapshots) / "models" / "user_knn" / "model.users_by_item.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(SnapshotError, match="users_by_item"):
        Snapshot.load(current(edited.snapshots))


def test_what_is_not_trained_says_what_to_run(edited: Edited, log: TrainingLog) -> None:
    view = serving(edited, log, {}).view()
    for name in ("user_knn", "ranker"):
        strategy, options = Registry().choose(name, {})
        lacking = strategy.lacking(data_over(view), options)
        assert lacking is not None
        assert f"run: recserve train {name}" in lacking.text


@pytest.mark.parametrize("rows_of_value", [0, 8])
def test_the_nearest_users_have_the_greatest_cosines(rows_of_value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether sums are made for all users or for those alone that had an item."""
    monkeypatch.setattr(scatter, "_ROWS_OF_VALUE", rows_of_value)
    random = np.random.default_rng(5)
    for users, entries, most in ((40, 60, 5), (40, 60, 100), (40, 0, 5)):
        of, shares = random.integers(0, users, entries), random.integers(1, 4, entries) / 4.0
        norms = np.sqrt(random.integers(1, 5, users))
        cosines = np.bincount(of, shares, users) / norms
        expected = sorted(set(of.tolist()), key=lambda user: (-cosines[user], user))
        assert _nearest(of, shares, norms, most, scatter.Scatter()).tolist() == expected[:most]
