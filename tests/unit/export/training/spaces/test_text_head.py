"""`text_head`: what belongs together comes closer, also for items that nobody had to do with."""

from __future__ import annotations

import numpy as np
import pytest

from recserve_export.errors import TrainingError
from recserve_export.training.base import Learned, TrainingLog, Work
from recserve_export.training.registry import settings_of, train
from recserve_export.training.spaces.text_head import TextHeadTrainer
from recserve_server_ext.common.arrays import Ints, Vectors
from support.training_logs import log_from, log_of

ITEMS, GROUPS, DIM = 480, 8, 16
#: The last items are in no history.
WARM = 400
QUICK = {"steps": 80, "batch": 64, "hidden": 64, "rate": 3e-3, "scale": 5.0, "keep": 0.0, "noise": 0.0}


def texts() -> tuple[Vectors, Ints]:
    """Text vectors that say little of the group of an item, and the groups."""
    random = np.random.default_rng(3)
    group = np.arange(ITEMS) % GROUPS
    hint = np.eye(GROUPS, DIM)[group]
    text = (random.normal(size=(ITEMS, DIM)) + 2.0 * hint).astype(np.float32)
    return text / np.linalg.norm(text, axis=1, keepdims=True), group


def histories(heavy: int = 0, count: int = 200) -> TrainingLog:
    """Users who stay in one group of the warm items; user 0 has so many interactions more, across the groups."""
    random = np.random.default_rng(4)
    users = np.repeat(np.arange(count), 8)
    item = random.integers(WARM // GROUPS, size=len(users)) * GROUPS + users % GROUPS
    users = np.concatenate([np.zeros(heavy, np.int64), users])
    item = np.concatenate([random.integers(WARM, size=heavy), item])
    return log_from(users, item, count, ITEMS)


def separation(vectors: Vectors, group: Ints, rows: slice) -> float:
    """Mean cosine within the groups less that between them."""
    cosines, same = vectors[rows] @ vectors[rows].T, group[rows][:, None] == group[rows][None]
    return float(cosines[same & ~np.eye(len(same), dtype=bool)].mean() - cosines[~same].mean())


def vectors_of(learned: Learned) -> Vectors:
    assert learned.vectors is not None
    return learned.vectors


def test_groups_come_together_also_among_items_without_interactions() -> None:
    text, group = texts()
    learned = train("text_head", histories(), text, {**QUICK, "steps": 500})
    vectors = vectors_of(learned)
    assert learned.items.tolist() == list(range(ITEMS))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert separation(vectors, group, slice(WARM)) > 2 * separation(text, group, slice(WARM))
    unseen = slice(WARM, ITEMS)
    assert separation(vectors, group, unseen) > 1.2 * separation(text, group, unseen)


def test_the_map_for_later_items_is_close_to_the_network_without_own_vectors() -> None:
    text, _ = texts()
    learned = train("text_head", histories(), text, QUICK)
    assert learned.text_map is not None
    mapped = text @ learned.text_map[:-1] + learned.text_map[-1]
    cosines = (mapped * vectors_of(learned)).sum(axis=1) / np.linalg.norm(mapped, axis=1)
    assert cosines[WARM:].mean() > 0.9
    assert cosines[WARM:].mean() > cosines[:WARM].mean()


def test_own_vectors_bring_known_items_closer_together() -> None:
    text, group = texts()
    own, without = (
        vectors_of(train("text_head", histories(), text, {**QUICK, "id_dropout": share})) for share in (0.5, 1.0)
    )
    known = slice(WARM)
    assert separation(own, group, known) > separation(without, group, known)


def test_it_begins_as_the_text_vectors_and_can_be_held_there() -> None:
    text, _ = texts()
    first = vectors_of(train("text_head", histories(), text, {**QUICK, "steps": 1, "rate": 1e-9}))
    np.testing.assert_allclose(first, text, atol=1e-5)
    free = vectors_of(train("text_head", histories(), text, QUICK))
    held = vectors_of(train("text_head", histories(), text, {**QUICK, "keep": 20.0}))
    assert (held * text).sum(axis=1).mean() > (free * text).sum(axis=1).mean() + 0.1


def test_only_the_newest_500_interactions_of_a_user_count() -> None:
    text, _ = texts()
    heavy = histories(100_000)
    newest = slice(100_000 + 8 - 500, None)
    bounded = log_from(heavy.user[newest], heavy.item[newest], heavy.users, ITEMS)
    expected, found = (vectors_of(train("text_head", log, text, QUICK)) for log in (bounded, heavy))
    np.testing.assert_array_equal(found, expected)


def test_one_user_with_100_000_events_moves_the_vectors_by_little_more_than_another_seed_does() -> None:
    text, _ = texts()
    clean, poisoned, other = (
        vectors_of(train("text_head", histories(heavy, 1000), text, {**QUICK, "seed": seed}))
        for heavy, seed in ((0, 0), (100_000, 0), (0, 1))
    )
    moved = (clean * poisoned).sum(axis=1).mean()
    assert moved > 0.75
    assert moved > (clean * other).sum(axis=1).mean() - 0.1


def test_the_same_seed_gives_the_same_vectors() -> None:
    text, _ = texts()
    one, same, other = (vectors_of(train("text_head", histories(), text, {**QUICK, "seed": s})) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_longer_log_goes_on_from_the_weights_of_an_earlier_part() -> None:
    text, _ = texts()
    log, settings = histories(), settings_of("text_head", {**QUICK, "more_steps": 0})
    first = TextHeadTrainer().train(log_from(log.user[:800], log.item[:800], log.users, ITEMS), text, settings)
    same = TextHeadTrainer().work(log, text, settings, Work(before=first.state))
    np.testing.assert_array_equal(vectors_of(same), vectors_of(first))
    more = TextHeadTrainer().work(
        log, text, settings_of("text_head", {**QUICK, "more_steps": 5}), Work(before=first.state)
    )
    assert not np.array_equal(vectors_of(more), vectors_of(first))
    assert more.figures["loss"] < train("text_head", log, text, {**QUICK, "steps": 5}).figures["loss"]


def test_identical_texts_are_told_apart_by_what_users_did_alone() -> None:
    text, group = texts()
    text[:10] = text[WARM : WARM + 10] = text[0]
    vectors = vectors_of(train("text_head", histories(), text, QUICK))
    unseen = vectors[WARM : WARM + 10]
    np.testing.assert_allclose(unseen, np.broadcast_to(unseen[0], (10, DIM)), atol=1e-5)
    cosines = vectors[:10] @ vectors[:10].T
    assert cosines[group[0], group[0] + GROUPS] > cosines[0, 1:GROUPS].max()


def test_an_item_without_a_text_has_no_vector() -> None:
    text, _ = texts()
    text[7] = 0.0
    assert 7 not in train("text_head", histories(), text, QUICK).items.tolist()


@pytest.mark.parametrize("text", [None, np.zeros((40, 8), np.float32)])
def test_without_text_vectors_it_is_refused(text: Vectors | None) -> None:
    with pytest.raises(TrainingError, match="needs text vectors"):
        train("text_head", log_of(20, 40, 100), text, QUICK)


def test_a_log_without_pairs_leaves_the_text_vectors_as_they_are() -> None:
    text, _ = texts()
    learned = train("text_head", log_from(np.arange(5), np.zeros(5, np.int64), 5, ITEMS), text, QUICK)
    np.testing.assert_allclose(vectors_of(learned), text, atol=1e-5)
    assert learned.figures["pairs"] == 0


def test_items_that_came_between_two_parts_of_a_log_begin_without_an_own_vector() -> None:
    text, _ = texts()
    log, settings = histories(), settings_of("text_head", {**QUICK, "more_steps": 0})
    first = TextHeadTrainer().train(log, text, settings)
    names = ["came first", *log.items]
    longer = log_from(log.user, log.item + 1, log.users, ITEMS + 1)
    longer.items[:] = names
    same = TextHeadTrainer().work(longer, np.vstack([text[:1], text]), settings, Work(before=first.state))
    np.testing.assert_allclose(vectors_of(same)[1:], vectors_of(first), atol=1e-6)
    unknown = text[:1] @ same.text_map[:-1] + same.text_map[-1]  # type: ignore[index]
    assert (vectors_of(same)[:1] * unknown).sum() / np.linalg.norm(unknown) > 0.8


def test_what_is_far_apart_in_a_history_comes_together_by_the_pairs_anywhere() -> None:
    text, _ = texts()
    # Users begin with one of four items, and end with what goes with it, after an item that anybody has.
    random = np.random.default_rng(5)
    users = np.repeat(np.arange(200), 3)
    place, between = np.tile(np.arange(3), 200), random.integers(WARM // 2, size=len(users)) + WARM // 2
    item = np.where(place == 1, between, 8 * (users % 4) + place // 2)
    log, settings = log_from(users, item, 200, ITEMS), {**QUICK, "steps": 200, "batch": 400, "apart": 1}
    near, far = (vectors_of(train("text_head", log, text, {**settings, "anywhere": weight})) for weight in (0.0, 1.0))

    def own_end(vectors: Vectors) -> float:
        """Mean cosine of a beginning and its end less that with the ends of others."""
        cosines = vectors[0:32:8] @ vectors[1:32:8].T
        return float(cosines.diagonal().mean() - cosines[~np.eye(4, dtype=bool)].mean())

    assert own_end(far) > own_end(near) + 0.2, (own_end(far), own_end(near), own_end(text))
