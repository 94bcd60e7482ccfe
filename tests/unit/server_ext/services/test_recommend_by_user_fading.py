"""What fades while a user does more, by user id: what is popular, and stated interests."""

from __future__ import annotations

from typing import Any

import pytest

from recserve_server_ext.strategies.fusion import FusionOptions
from support.events import BOB, NOW, PSEUDONYMS, event
from support.user_service import Service, parts_of


def test_popularity_fades_as_events_arrive(busy: Service) -> None:
    parts = []
    for n in range(3):
        found = busy.recommend_for("bob", strategy="blend", k=200)
        (of,) = [parts_of(item) for item in found.items if item.id == "i150"]
        parts.append(of["popular"])
        busy.store.record([event(BOB, item=f"i{60 + 2 * n + m}", timestamp=NOW) for m in range(5)])
    # prior / (prior + n) with prior 5 and n = 0, 5, 10 (two of them new each time).
    assert parts[1] == pytest.approx(parts[0] / 2, rel=1e-6)
    assert parts[0] > parts[1] > parts[2] > 0


def test_popularity_comes_back_after_a_pause_but_not_in_a_session(busy: Service) -> None:
    half_life_s = FusionOptions().stale_half_life_s

    def popularity(user: str, pauses: float, **request: Any) -> float:
        for n in range(5):
            busy.store.record([event(PSEUDONYMS.of(user), item=f"i{60 + n}", timestamp=NOW - pauses * half_life_s)])
        found = busy.recommend_for(user, strategy="blend", k=200, **request)
        (of,) = [parts_of(item) for item in found.items if item.id == "i150"]
        return of["popular"]

    alone = popularity("bob", 0) * 2
    # prior / (prior + n) with prior 5 and n = 5 / 2 and 5 / 8, and next to 0.
    assert popularity("away", 1) == pytest.approx(alone * 5 / 7.5, rel=1e-6)
    assert popularity("away longer", 3) == pytest.approx(alone * 5 / 5.625, rel=1e-6)
    assert popularity("long gone", 2000) == pytest.approx(alone, rel=1e-6)
    # Six behaviours with that of the session, all of them fresh.
    assert popularity("back", 3, session=[{"item": "i70"}]) == pytest.approx(alone * 5 / 11, rel=1e-6)


def test_stated_interests_fade_as_events_arrive(service: Service) -> None:
    alone = service.recommend_for("bob", stated=["sea"])
    assert alone.strategy == "text"
    assert isinstance(alone.history, list)
    assert [(one.origin, one.text, one.weight) for one in alone.history] == [("stated", "sea", 1.0)]
    for n in (5, 10):
        service.store.record([event(BOB, item=f"i{30 + n + m}") for m in range(5)])
        used = service.recommend_for("bob", stated=["sea", "space"]).history
        assert isinstance(used, list)
        stated = [one.weight for one in used if one.origin == "stated"]
        assert stated == pytest.approx([5 / (5 + n) / 2] * 2)
        assert sum(abs(one.weight) for one in used) == pytest.approx(1.0)
