"""Requests as of a moment: what came later does not count, in any path; the server's bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recserve_client.contract import ErrorKind, RequestError, Slate
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.snapshot import Snapshot
from support.events import NOW, PSEUDONYMS, event
from support.small_snapshot import small_snapshot
from support.user_service import LIMITS, Service

DAY = 86_400.0
#: The moment that is asked about.
THEN = NOW - 40 * DAY
BOOST = {"by": "recency", "attribute": "year", "half_life": 3e8, "weight": 0.5}
REPLAYING: Limits = msgspec.structs.replace(LIMITS, replay_s=100 * DAY)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"))


def log(start: float, item_of: int) -> list[Any]:
    """Seven users with some neighbouring items each, a view a day and an hour apart."""
    return [
        event(PSEUDONYMS.of(f"u{user}"), f"i{item_of + (user + n) % 9}", timestamp=start - n * DAY - user)
        for user in range(7)
        for n in range(6)
    ] + [
        event(PSEUDONYMS.of("ann"), f"i{item_of + n}", timestamp=start - n * DAY, type=("view", "purchase")[n % 2])
        for n in range(4)
    ]


@pytest.fixture
def then(snapshot: Snapshot, tmp_path: Path) -> Iterator[Service]:
    """A server whose log ends at that moment."""
    service = Service(snapshot, tmp_path / "then.db", limits=REPLAYING)
    service.store.record(log(THEN - 60, 20))
    yield service
    service.store.close()


@pytest.fixture
def today(snapshot: Snapshot, store_place: Path | str) -> Iterator[Service]:
    """A server whose log goes on after it."""
    service = Service(snapshot, store_place, limits=REPLAYING)
    service.store.record(log(THEN - 60, 20))
    service.store.record([event(PSEUDONYMS.of("ann"), "i20", timestamp=THEN)])
    service.store.record(log(NOW - 60, 24))
    yield service
    service.store.close()


def shown(slate: Slate) -> Any:
    """What a slate says, without its id and timings."""
    return [(item.id, round(item.score, 5), item.parts, item.facts) for item in slate.items], slate.history


@pytest.mark.parametrize(
    "request_",
    [
        {"user_id": "ann"},
        {"user_id": "ann", "strategy": "item_knn"},
        {"user_id": "ann", "strategy": "popular", "options": {"window": "week"}},
        {"user_id": "ann", "strategy": "popular", "options": {"by": "recent"}},
        {"user_id": "ann", "strategy": "blend"},
        {"user_id": "ann", "strategy": "item_knn", "allow_repeat": ["view"]},
        {"user_id": "ann", "strategy": "text", "exclude_seen": False, "session": [{"item": "i50"}]},
        {"user_id": "nobody"},
        {"history": [{"item": "i21"}], "strategy": "item_knn"},
        {"history": [{"item": "i21"}], "strategy": "popular"},
        {"history": [{"item": "i21"}], "slate": {"boosts": [BOOST]}},
        {"history": [{"item": "i21"}], "new_items": BOOST},
    ],
)
def test_what_came_later_does_not_count(then: Service, today: Service, request_: dict[str, Any]) -> None:
    expected = then.recommend(**request_, k=6, now=THEN)
    found = today.recommend(**request_, k=6, now=THEN)
    assert shown(found) == shown(expected)
    assert found.strategy == expected.strategy
    assert shown(today.recommend(**request_, k=6, now=NOW - 1)) != shown(found) or "text" in request_.values()


def test_moments_of_one_batch_are_apart(today: Service) -> None:
    ask = {"user_id": "ann", "strategy": "popular", "k": 4, "options": {"window": "week"}, "exclude_seen": False}
    moments = [None, THEN, NOW - 1, THEN, None]
    alone = [shown(today.recommend(**ask, **({} if now is None else {"now": now}))) for now in moments]
    together = today.batch(*({**ask, **({} if now is None else {"now": now})} for now in moments))
    assert [shown(msgspec.json.decode(answer, type=Slate)) for answer in together] == alone
    assert alone[0] != alone[1]


def test_replays_are_not_logged(today: Service) -> None:
    today.recommend(user_id="ann", now=THEN)
    assert today.logged == []
    today.recommend(user_id="ann")
    assert len(today.logged) == 1


@pytest.mark.parametrize("now", [NOW + 1, NOW - 101 * DAY, 0.0])
def test_a_moment_out_of_bounds_is_refused(today: Service, now: float) -> None:
    (answer,) = today.batch({"user_id": "ann", "now": now})
    assert isinstance(answer, RequestError)
    assert (answer.kind, "$.now is" in answer.text) == (ErrorKind.INVALID_REQUEST, True)


def test_replays_are_off_by_default(snapshot: Snapshot, tmp_path: Path) -> None:
    service = Service(snapshot, tmp_path / "store.db")
    for ask in ({"user_id": "ann"}, {"history": [{"item": "i21"}]}):
        (answer,) = service.batch({**ask, "now": NOW - 1})
        assert isinstance(answer, RequestError)
        assert "limits.replay_s" in answer.text
    service.store.close()


def test_clicks_have_no_past(today: Service) -> None:
    (answer,) = today.batch({"user_id": "ann", "now": THEN, "explore": {"kind": "thompson"}})
    assert isinstance(answer, RequestError)
    assert "thompson" in answer.text
