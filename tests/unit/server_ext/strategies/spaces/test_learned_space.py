"""Trained strategies over published snapshots: scores, explanations, texts, long histories, live changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from recserve_export.index.spaces import compacted_matrices, compacted_spaces
from recserve_export.training.base import Learned, TrainingLog
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.strategies.base import Candidates
from recserve_server_ext.strategies.registry import Registry
from support.data import data_over
from support.edited import Edited, item_vector
from support.published import query_of, ranked, rows_of, serving
from support.training_logs import log_of

ITEMS = 30


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=ITEMS)
    yield edited
    edited.store.close()


@pytest.fixture
def log() -> TrainingLog:
    """Of items that the catalogue has, but for the last two, which nobody had to do with."""
    return log_of(80, ITEMS, 900)


@pytest.fixture
def text(edited: Edited, log: TrainingLog) -> Vectors:
    of = {item.id: item_vector(item.texts) for item in edited.store.items()}
    return np.stack([of[name] for name in log.items])


def learned_of(log: TrainingLog, text: Vectors | None) -> dict[str, Learned]:
    return {
        "ease": train("ease", log, text, {"rank": 6, "l2": 5.0}),
        "transitions": train("transitions", log, text, {"l2": 2.0}),
        "item_knn": train("item_knn", log, text, {}),
    }


def test_products_are_those_of_the_vectors_also_of_changed_items(
    edited: Edited, log: TrainingLog, text: Vectors
) -> None:
    """Of items of the snapshot, changed and new ones, of rows without a vector, and of no row."""
    catalogue = serving(edited, log, {"ease": learned_of(log, text)["ease"]})
    catalogue.view()
    edited.change("upsert", [{"id": "i3", "texts": {"title": "other"}}, {"id": "new", "texts": {"title": "new"}}])
    for view in (catalogue.view(), serving(edited, log, {"ease": learned_of(log, None)["ease"]}).view()):
        space = view.space("ease")
        rows = np.append(np.arange(len(view.available)), -1)
        users = np.random.default_rng(0).normal(size=(2, space.dim)).astype(np.float32)
        expected = users @ space.vectors(rows[:-1]).T
        found = space.products(users, np.stack([rows, rows[::-1]]))
        np.testing.assert_allclose(found[0, :-1], expected[0], atol=1e-5)
        np.testing.assert_allclose(found[1, 1:], expected[1, ::-1], atol=1e-5)
        assert found[0, -1] == found[1, 0] == 0.0


def test_ease_ranks_by_its_weights(edited: Edited, log: TrainingLog) -> None:
    learned = learned_of(log, None)
    view = serving(edited, log, learned).view()
    ease = learned["ease"]
    assert ease.inputs is not None
    assert ease.vectors is not None
    weights = ease.inputs @ ease.vectors.T
    place = {log.items[item]: n for n, item in enumerate(ease.items.tolist())}
    history = ["i3", "i1", "i7"]
    scores = sum(2.0 ** (-n / 4.0) * weights[place[name]] for n, name in enumerate(history))
    expected = [log.items[ease.items[n]] for n in np.argsort(-np.asarray(scores), kind="stable")]
    assert ranked(view, history, "ease") == expected


@pytest.mark.parametrize("strategy", ["ease", "transitions", "item_knn"])
@pytest.mark.parametrize("length", [3, 200])
def test_behaviours_add_up_to_the_score(edited: Edited, log: TrainingLog, strategy: str, length: int) -> None:
    view = serving(edited, log, learned_of(log, None)).view()
    names = [f"i{n % 27}" for n in range(length - 1)] + ["unknown"]
    rows = rows_of(view, [f"i{n}" for n in range(ITEMS)])
    query, own = query_of(view, names, strategy), Registry().choose(strategy, {}).strategy
    (parts,) = own.score([query], [Candidates(rows)])
    (explained,) = own.explain([query], [Candidates(rows)])
    assert explained.contributions is not None
    assert explained.contributions.shape == (ITEMS, length)
    assert explained.contributions.any()
    np.testing.assert_allclose(explained.contributions.sum(axis=1), parts[strategy], atol=1e-5)
    assert not explained.contributions[:, -1].any()


def test_new_items_and_texts_go_through_the_map(edited: Edited, log: TrainingLog, text: Vectors) -> None:
    live = serving(edited, log, learned_of(log, text))
    edited.change("upsert", [{"id": "new", "texts": {"title": "brand new"}}])
    edited.change("delete", [{"id": "i4"}])
    view = live.view()
    everything = ranked(view, ["i1", "i2"], "ease")
    assert "new" in everything
    assert "i4" not in everything
    assert "i29" in everything
    # A new item counts as a behaviour, and so does a text.
    assert ranked(view, ["new"], "ease")
    query = query_of(view, ["text"], "ease")
    query.profile.vectors[0] = item_vector({"title": "brand new"})
    strategy = Registry().choose("ease", {}).strategy
    (rows,) = strategy.candidates([query], [100])
    assert view.ids(rows) == ranked(view, ["new"], "ease")


@pytest.mark.parametrize("strategy", ["transitions", "item_knn"])
def test_changed_items_keep_their_weights(edited: Edited, log: TrainingLog, strategy: str) -> None:
    live = serving(edited, log, learned_of(log, None))
    before = ranked(live.view(), ["i1", "i2"], strategy)
    gone = before[-1]
    edited.change("upsert", [{"id": "i1", "texts": {"title": "other"}}, {"id": before[0], "texts": {"title": "more"}}])
    edited.change("delete", [{"id": gone}])
    assert ranked(live.view(), ["i1", "i2"], strategy) == before[:-1]


def test_a_strategy_that_is_not_trained_says_what_to_run(edited: Edited, log: TrainingLog) -> None:
    view = serving(edited, log, {}).view()
    for name in ("ease", "als", "transitions", "item2vec", "vectors"):
        strategy, options = Registry().choose(name, {})
        lacking = strategy.lacking(data_over(view), options)
        assert lacking is not None
        assert f"recserve train {name}" in lacking.text
    strategy, options = Registry().choose("item_knn", {})
    assert strategy.lacking(data_over(view), options) is None


def test_unknown_items_make_a_user_cold(edited: Edited, log: TrainingLog) -> None:
    view = serving(edited, log, learned_of(log, None)).view()
    for name in ("ease", "transitions", "item_knn"):
        queries = [query_of(view, names, name) for names in (["i29"], ["unknown"], ["i1"])]
        cold = Registry().choose(name, {}).strategy.cold(queries)
        assert [reason is not None for reason in cold] == [True, True, False]


def test_compaction_keeps_inputs_and_matrices(edited: Edited, log: TrainingLog, text: Vectors) -> None:
    serving(edited, log, learned_of(log, text))
    snapshot = Snapshot.load(current(edited.snapshots))
    # Other rows: one item is gone, one is new, and the order is another.
    ids = ["new", *[name for name in reversed(snapshot.ids) if name != "i4"]]
    vectors = np.stack([item_vector({"title": name}) for name in ids])
    arguments = current(edited.snapshots), snapshot.manifest, snapshot.row_of.rows(ids)
    ease = compacted_spaces(*arguments, ids, vectors)["ease"]
    before = snapshot.spaces["ease"]
    assert ease.inputs is not None
    assert before.inputs is not None
    assert before.text_map is not None
    for row, name in enumerate(ids[1:], start=1):
        np.testing.assert_array_equal(ease.inputs[row], before.inputs[snapshot.row_of[name]])
        np.testing.assert_array_equal(ease.vectors[row], before.vectors[snapshot.row_of[name]])
    mapped = vectors[0] @ before.text_map[:-1] + before.text_map[-1]
    np.testing.assert_allclose(np.concatenate([ease.vectors[0], ease.inputs[0]]), mapped, atol=1e-5)
    for name, matrix in compacted_matrices(*arguments).items():
        old, gone = snapshot.matrices[name], snapshot.row_of["i4"]
        for row, item in enumerate(ids[1:], start=1):
            found, expected = matrix.of_rows(np.array([row])), old.of_rows(np.array([snapshot.row_of[item]]))
            kept = expected.column != gone
            names = [snapshot.ids[column] for column in expected.column[kept]]
            assert [ids[column] for column in found.column] == names
            np.testing.assert_array_equal(found.weight, expected.weight[kept])
        assert not len(matrix.of_rows(np.array([0])).column)
