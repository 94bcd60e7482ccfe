"""Every training takes odd logs: one user, one item, all at one time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recserve_export.training.base import TrainingLog, training_log
from recserve_export.training.registry import TRAINERS, settings_of, train
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.interactions.columns import InteractionRow, interaction_columns

NOW_US, _HOUR_US = 1_500_000_000_000_000, 3_600_000_000


def log_of(*histories: list[str]) -> TrainingLog:
    rows = [[InteractionRow(NOW_US, "click", name, None, None, None, None, None) for name in of] for of in histories]
    return training_log(interaction_columns(rows))


LOGS = {
    "one interaction": log_of(["a"]),
    "one user": log_of(["a", "b", "c"]),
    "one item": log_of(["a"], ["a"], ["a"]),
    "one item each": log_of(["a"], ["b"], ["c"]),
    "a user with nothing": log_of(["a", "b"], [], ["b", "c"]),
}


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
def test_odd_logs_are_learned_from(name: str, log: TrainingLog) -> None:
    text = np.random.default_rng(0).normal(size=(len(log.items), 4)).astype(np.float32)
    learned = train(name, log, text)
    assert TRAINERS[name].needed_bytes(log, settings_of(name, {})) > 0
    if learned.matrix is not None:
        learned.matrix.check(name, len(log.items))
    elif learned.model is not None:
        assert all(len(array) for array in learned.model.values())
    else:
        assert learned.vectors is not None
        assert len(learned.vectors) == len(learned.items) == len(log.items)
        assert np.isfinite(learned.vectors).all()
        assert learned.text_map is not None
        assert np.isfinite(learned.text_map).all()


def test_the_log_follows_the_rules_of_histories() -> None:
    def row(kind: str, item: str | None, second: int, **more: float) -> InteractionRow:
        measures = {"value": None, "duration_s": None, "price": None, "quantity": None} | more
        return InteractionRow(NOW_US + second * 10**6, kind, item, None if item else "a text", **measures)

    columns = interaction_columns(
        [
            [row("click", "b", 2), row("purchase", "a", 1), row("dislike", "c", 3), row("search", None, 4)],
            [row("view", "a", 1, duration_s=0.5), row("rating", "b", 2, value=1.0), row("unknown", "c", 3)],
        ]
    )
    log = training_log(columns, HistoryRules())
    found = [(user, log.items[item], weight) for user, item, weight in zip(log.user, log.item, log.weight, strict=True)]
    # Oldest first; without bounces, dislikes, texts and types without a weight; a low rating is a choice, too.
    assert found == [(0, "a", 4.0), (0, "b", 1.0), (1, "b", 1.0)]


def test_of_a_user_the_newest_interactions_count() -> None:
    """Who has millions of them does not decide alone; `tests/nightly/kills` has a user with ten million."""
    events = [InteractionRow(NOW_US + n * _HOUR_US, "click", f"i{n % 50}", *[None] * 5) for n in range(30_000)]
    busy = [event._replace(item="old") for event in events[:9_000]] + events[9_000:]
    log = training_log(interaction_columns([busy, events[:5]]))
    assert np.bincount(log.user).tolist() == [20_000, 5]
    assert "old" not in {log.items[item] for item in set(log.item.tolist())}
    assert log.time_us[:20_000].min() == NOW_US + 10_000 * _HOUR_US
    text = np.random.default_rng(0).normal(size=(len(log.items), 4)).astype(np.float32)
    network = {"epochs": 1, "held_out": 0.0}
    quick: dict[str, dict[str, Any]] = {
        "generate": network, "item2vec": {"epochs": 1}, "sequence": network, "text_head": {"steps": 20},
    }  # fmt: skip
    for name in TRAINERS:
        learned = train(name, log, text, quick.get(name))
        assert any(found is not None for found in (learned.matrix, learned.vectors, learned.model))
