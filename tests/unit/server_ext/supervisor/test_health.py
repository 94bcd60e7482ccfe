"""Busy or stuck."""

from __future__ import annotations

import pytest

from recserve_client.contract import models as names
from recserve_server_ext.supervisor.health import ASKS, Health

MODELS = [names.ENCODER, names.RECOMMEND, names.EMBED, names.TOKENIZE, names.POOL, names.RECOMMEND_TEXT]
LIMIT_S = 20


def health() -> Health:
    return Health(MODELS, 0, limit_s=LIMIT_S)


def test_all_is_well_at_first() -> None:
    assert health().stuck(LIMIT_S) == []


@pytest.mark.parametrize("model", MODELS)
def test_what_answers_nobody_is_stuck_after_the_limit(model: str) -> None:
    judged = health()
    for now in range(0, 30, 2):
        judged.update([model], {model: 7}, now)
        assert judged.stuck(now) == ([model] if now > LIMIT_S else [])


@pytest.mark.parametrize("model", MODELS)
def test_what_answers_others_is_busy(model: str) -> None:
    judged = health()
    for now in range(0, 100, 2):
        judged.update([model], {model: now}, now)
        assert judged.stuck(now) == []


@pytest.mark.parametrize("model", sorted(ASKS))
def test_what_waits_for_a_late_model_is_not_to_blame(model: str) -> None:
    judged = health()
    for now in range(0, 100, 2):
        judged.update([model, names.ENCODER], {names.ENCODER: now}, now)
        assert judged.stuck(now) == []


def test_a_stuck_model_is_named_and_not_those_that_wait_for_it() -> None:
    judged = health()
    for now in range(0, 30, 2):
        judged.update([names.ENCODER, names.EMBED, names.RECOMMEND_TEXT], {}, now)
    assert judged.stuck(30) == [names.ENCODER]


def test_a_count_that_starts_anew_after_a_reload_is_no_answer() -> None:
    judged = health()
    judged.update([names.POOL], {names.POOL: 500}, 0)
    judged.update([names.POOL], {names.POOL: 0}, 25)
    assert judged.stuck(25) == [names.POOL]
    judged.update([names.POOL], {names.POOL: 1}, 26)
    assert judged.stuck(26) == []


def test_a_server_that_gives_no_counts_is_no_answer() -> None:
    judged = health()
    judged.update([names.POOL], {names.POOL: 500}, 0)
    judged.update([names.POOL], {}, 25)
    assert judged.stuck(25) == [names.POOL]
