"""Ids of recommendations: distinct, and in the order of their time."""

from __future__ import annotations

import re
import time

import pytest

from recserve_server_ext.recommend.explain import recommendation_ids

NOW_MS = 1_790_000_000_123


def test_recommendation_ids_are_distinct_and_in_the_order_of_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for now_ms in (NOW_MS, NOW_MS + 1, 16 * NOW_MS):
        monkeypatch.setattr(time, "time_ns", lambda now_ms=now_ms: now_ms * 1_000_000 + 999_999)
        made.append(recommendation_ids(500))
        assert {int(one[:12], 16) for one in made[-1]} == {now_ms}
    every = [one for ids in made for one in ids]
    assert len(set(every)) == 1500
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in every)
    assert max(made[0]) < min(made[1])
    assert max(made[1]) < min(made[2])
