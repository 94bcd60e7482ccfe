"""Logged answers as something that the ranker learns from; the clicks of the largest test are simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
import sqlalchemy as sa

from recserve_export.training.base import TrainingLog
from recserve_export.training.ranking.answers import Answers, answers_from, inverse_weights, read_answers
from recserve_export.training.ranking.past import histories_at, histories_of
from recserve_export.training.ranking.questions import Lists, listed_answers, questions
from recserve_export.training.ranking.ranker import RankerSettings, fitted, tried
from recserve_export.training.registry import TRAINERS, train
from recserve_server_ext.common.arrays import Floats, Mask
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import users
from recserve_server_ext.strategies.ranker import NAME
from recserve_server_ext.strategies.registry import Registry
from support.answers import by_user, log_of, plain
from support.events import ANN, BOB, NOW, event
from support.training_logs import log_of as made_log

GIVEN = NOW - 10_000
NAMES = ["old policy", "measured appeal"]
POOL, SHOWN, EXPLORED, EPSILON = 30, 10, 3, 0.3
SETTINGS = RankerSettings()


def row(user: int, time_us: int, items: list[int], clicked: list[int], propensity: float = 1.0) -> Any:
    is_clicked = np.isin(np.arange(len(items)), clicked)
    return user, time_us, np.array(items), np.full(len(items), propensity), is_clicked


def test_only_what_stands_above_the_last_click_counts() -> None:
    found = answers_from([row(1, 20, [5, 6, 7, 8], [2]), row(0, 10, [9, -1, 4, 3], [0, 2, 3]), row(2, 30, [1, 2], [])])
    # The second has a click and nothing skipped, and the third no click.
    assert (found.user.tolist(), found.time_us.tolist()) == ([1], [20])
    assert found.item.tolist() == [5, 6, 7]
    assert found.clicked.tolist() == [False, False, True]
    # An item that the log lacks is left out, and so is an answer of which then nothing is skipped.
    assert not len(answers_from([row(0, 1, [-1, 3], [1])]).user)


def test_a_span_of_time_has_its_answers() -> None:
    every = answers_from([row(user, 10 * user, [user, 7, 8], [1]) for user in range(5)])
    found = every.between(10, 30)
    assert found.user.tolist() == [1, 2]
    assert found.item.tolist() == [1, 7, 2, 7]
    assert found.offsets.tolist() == [0, 2, 4]
    assert not len(every.between(100, 200).user)


def test_weights_are_inverse_propensities_up_to_a_bound() -> None:
    weights = inverse_weights(np.array([1.0, 0.5, 0.001, 0.0]), 10.0)
    np.testing.assert_allclose(weights * 5.75, [1.0, 2.0, 10.0, 10.0])
    assert not len(inverse_weights(np.empty(0), 10.0))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[InteractionStore]:
    with InteractionStore(tmp_path / "log.db", create=True, clock=lambda: NOW) as store:
        yield store


def test_answers_are_read_with_their_clicks(store: InteractionStore) -> None:
    log = log_of(store, now=GIVEN, plain=1.0)
    for answer, user in (
        (by_user("r1", ["i1", "i2", "i3"]), ANN),
        (by_user("r2", ["i2", "i1"]), BOB),
        (plain("r3", ["i1", "i2"]), None),
        (by_user("r4", ["i3", "new"]), ANN),
    ):
        log.offer(answer, user)
    log.close()
    store.record(
        [
            event(user, item, type="click", recommendation_id=answer, timestamp=GIVEN + 60)
            for user, item, answer in ((ANN, "i2", "r1"), (BOB, "i2", "r2"), (ANN, "i2", "r3"), (ANN, "new", "r4"))
        ]
    )
    with store.database.reading() as connection:
        numbers = np.array(sorted(connection.execute(sa.select(users.c.number)).scalars()))
        found = read_answers(connection, numbers, ["i3", "i2", "i1"])
    # Of the second nothing is skipped, the third names no user, and the fourth is about an item that the log lacks.
    assert found.item.tolist() == [2, 1]
    assert found.clicked.tolist() == [False, True]
    assert found.propensity.tolist() == [1.0, 1.0]
    assert found.time_us.tolist() == [round(GIVEN * 1e6)]


def test_histories_of_a_moment_hold_what_came_before_it() -> None:
    log = made_log(6, 20, 120)
    end = int(log.columns.time_us.max()) + 1
    whole = histories_of(log.columns, log.rules)
    found = histories_at(log.columns, np.arange(6), np.full(6, end), log.rules)
    assert [one.newest_us for one in found] == [one.newest_us for one in whole]
    moment = int(np.median(log.columns.time_us[log.columns.user == 3]))
    (before,) = histories_at(log.columns, np.array([3]), np.array([moment]), log.rules)
    own = log.columns.time_us[log.columns.user == 3]
    assert before.newest_us == own[own < moment].max()


def with_answers(log: TrainingLog, count: int) -> TrainingLog:
    random, times = np.random.default_rng(0), np.sort(log.columns.time_us)
    rows = [
        row(
            int(random.integers(log.users)),
            int(random.choice(times[len(times) // 3 :])),
            random.permutation(9).tolist(),
            [4],
        )
        for _ in range(count)
    ]
    return replace(log, answers=answers_from(rows))


def test_sources_do_not_know_what_came_after_an_answer() -> None:
    log = with_answers(made_log(60, 30, 900), 80)
    strategy, options = Registry().choose(NAME, {})
    found = list(questions(log, np.zeros((30, 1), np.float32), TRAINERS, seed=0, cuts=3, most=1000))
    lists = 0
    for question in found:
        if question.answers is None:
            assert question.asked_us is None
            continue
        assert question.past.columns.time_us.max() < question.answers.time_us.min()
        of = listed_answers(question, log.columns, strategy.trainings(options) - {NAME}, options, 10.0)
        assert of.labels.sum() == len(of.lengths)
        lists += len(of.lengths)
    assert lists > 10


def test_a_training_says_what_it_tried() -> None:
    log = with_answers(made_log(60, 30, 900), 300)
    small = {"cuts": 3, "trees": 5, "least": 5, "least_answers": 20}
    learned = train("ranker", log, None, small)
    assert learned.figures["answers"] >= 20
    assert set(learned.figures["tried"]) == {"ndcg", "ndcg_without", "helps"}
    again = train("ranker", log, None, small)
    assert again.figures == learned.figures
    for few in ({"least_answers": 1000}, {"least_answers": 0}):
        assert "tried" not in train("ranker", log, None, {**small, **few}).figures


class Simulated:
    """Simulated users: they look at the upper places more often, and click what appeals to them.

    What they turned to is only what an old policy showed them, whose order has nothing to do with the appeal.
    """

    def __init__(self, seed: int, count: int = 1500) -> None:
        self.random = np.random.default_rng(seed)
        answers, self.features, turned = list[Any](), list[Floats](), list[Mask]()
        for user in range(count):
            old, appeal = self.random.random((2, POOL))
            slate, propensity = self.slate(old)
            looked = 1.0 / np.sqrt(np.arange(SHOWN) + 1.0)
            clicked = self.random.random(SHOWN) < appeal[slate] ** 2 * looked
            answers.append((user, user, slate, propensity, clicked))
            self.features.append(np.column_stack([old, appeal + 0.2 * self.random.standard_normal(POOL)]))
            turned.append(np.isin(np.arange(POOL), slate[clicked]))
        self.answers: Answers = answers_from(answers)
        asked = [user for user, of in enumerate(turned) if of.any()]
        self.turned = Lists(
            np.concatenate([self.features[user] for user in asked]),
            np.concatenate([turned[user] for user in asked]).astype(np.int64),
            np.full(len(asked), POOL),
            np.zeros(POOL * len(asked), np.bool_),
            np.ones(POOL * len(asked)),
        )

    def slate(self, old: Floats) -> tuple[Any, Floats]:
        """The best by the old policy; the last places show anything else by chance."""
        order = np.argsort(-old).tolist()
        slate, propensity = order[: SHOWN - EXPLORED], [1.0] * (SHOWN - EXPLORED)
        for _ in range(EXPLORED):
            others = [item for item in order if item not in slate]
            explores = bool(self.random.random() < EPSILON)
            slate.append(int(self.random.choice(others)) if explores else others[0])
            propensity.append(EPSILON / len(others) if explores else 1.0 - EPSILON)
        return np.array(slate), np.array(propensity)

    def shown(self, clip: float) -> Lists:
        of = self.answers
        spans = [slice(*of.offsets[number : number + 2].tolist()) for number in range(len(of.user))]
        features = [self.features[user][of.item[span]] for user, span in zip(of.user.tolist(), spans, strict=True)]
        return Lists(
            np.concatenate(features), of.clicked.astype(np.int64), np.diff(of.offsets),
            np.zeros(len(of.item), np.bool_), inverse_weights(of.propensity, clip),
        )  # fmt: skip


def both(one: Lists, other: Lists) -> Lists:
    return Lists(*(np.concatenate(parts) for parts in zip(one, other, strict=True)))


def appeal_of_best(lists: Lists) -> float:
    """Mean appeal of the ten items that a model puts first, for new users."""
    booster, random = lightgbm.Booster(model_str=fitted(lists, SETTINGS, NAMES)), np.random.default_rng(99)
    old, appeal = random.random((2, 400, POOL))
    features = np.stack([old, appeal + 0.2 * random.standard_normal(appeal.shape)], axis=2)
    scores = booster.predict(features.reshape(-1, 2), num_threads=1).reshape(400, POOL)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :SHOWN]
    return float(np.take_along_axis(appeal, best, axis=1).mean())


@pytest.mark.parametrize("seed", [0, 1])
def test_simulated_answers_correct_what_only_an_old_policy_showed(seed: int) -> None:
    world = Simulated(seed)
    without, unweighted, weighted = (
        appeal_of_best(lists)
        for lists in (world.turned, both(world.turned, world.shown(1.0)), both(world.turned, world.shown(10.0)))
    )
    assert weighted > without + 0.02
    assert weighted > unweighted
    assert tried(world.turned, world.shown(10.0), SETTINGS, NAMES).helps


def test_simulated_answers_without_a_meaning_are_not_learned_from() -> None:
    world = Simulated(0)
    random, shown = np.random.default_rng(1), world.shown(10.0)
    ends = np.cumsum(shown.lengths)
    labels = np.concatenate([random.permutation(part) for part in np.split(shown.labels, ends[:-1])])
    assert not tried(world.turned, shown._replace(labels=labels), SETTINGS, NAMES).helps
