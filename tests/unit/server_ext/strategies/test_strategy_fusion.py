"""Strategies together: sums of standardised scores and of reciprocal ranks against plain Python."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_client.contract import ErrorKind, RequestError, Slate
from support.events import NOW, PSEUDONYMS, event
from support.small_snapshot import small_snapshot
from support.user_service import Service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Everybody who turned to i20 turned to i21, and many to i150."""
    service = Service(small_snapshot(tmp_path / "snapshots"), tmp_path / "store.db")
    for n in range(30):
        items = ["i20", "i21", *[f"i{22 + n % 3}"]] if n < 12 else ["i150", f"i{160 + n % 5}"]
        user = PSEUDONYMS.of(f"other{n}")
        service.store.record([event(user, item=item, timestamp=NOW - 300 + n) for item in items])
    service.store.record([event(item="i20", timestamp=NOW - 50), event(item="i9", timestamp=NOW - 90)])
    service.counter.count()
    yield service
    service.store.close()


def asked(service: Service, weights: dict[str, float], k: int = 200, **options: Any) -> Slate:
    return service.recommend_for(k=k, strategy="fusion", options={"weights": weights, **options}, exclude_seen=False)


def parts_of(found: Slate) -> dict[str, dict[str, float]]:
    return {item.id: item.parts for item in found.items if isinstance(item.parts, dict)}


def alone(service: Service, name: str, k: int = 200) -> list[tuple[str, float]]:
    found = service.recommend_for(k=k, strategy=name, exclude_seen=False)
    return [(item.id, item.score) for item in found.items]


def test_scores_are_weighted_and_standardised(service: Service) -> None:
    found = asked(service, {"text": 1.0, "item_knn": 3.0, "popular": 2.0}, prior=5.0)
    own, items = parts_of(found), 200
    fresh = 2 * 2.0 ** (-50 / (3 * 3600.0))
    others = 5.0 / (5.0 + fresh)
    shares = {"text": (1 - others) * 0.25, "item_knn": (1 - others) * 0.75, "popular": others}
    for name, share in shares.items():
        scores = dict(alone(service, name))
        values = np.array([scores.get(f"i{row}", 0.0) for row in range(items)])
        # The strategy `text` measures its spread by the covariance of the items, which is that of their scores.
        expected = share / values.std()
        for found_id, score in list(scores.items())[:20]:
            assert own[found_id][name] == pytest.approx(expected * score, rel=2e-3, abs=1e-6), (name, found_id)
    for item in found.items:
        assert sum(own[item.id].values()) == pytest.approx(item.score, abs=1e-6)
    assert [item.score for item in found.items] == sorted((item.score for item in found.items), reverse=True)


def test_reciprocal_ranks(service: Service) -> None:
    found = asked(service, {"text": 1.0, "popular": 1.0}, by="rank", prior=1e9)
    ranks = {name: [item for item, _ in alone(service, name, 200)] for name in ("text", "popular")}
    expected = {
        item: sum(
            share / (61 + ranks[name].index(item))
            for name, share in (("text", 2 / (1e9 + 2)), ("popular", 1.0))
            if item in ranks[name]
        )
        for item in {*ranks["text"], *ranks["popular"]}
    }
    assert len(found.items) > 150
    for item in found.items:
        assert item.score == pytest.approx(expected[item.id], rel=1e-4, abs=1e-8)
        own = sum(item.contributions or [])
        assert isinstance(item.parts, dict)
        assert own == pytest.approx(item.parts["text"], abs=1e-7)


@pytest.mark.parametrize("by", ["score", "rank"])
def test_a_plain_slate_is_that_of_rules_which_change_nothing(service: Service, by: str) -> None:
    """Plain slates take the candidates as they are ranked; others are scored and sorted."""
    options = {"weights": {"text": 1.0, "item_knn": 2.0, "popular": 1.0}, "by": by}
    others: list[dict[str, Any]] = [{}, {"slate": {}}, {"explain": False}]
    plain, *rest = (service.recommend_for(k=30, strategy="fusion", options=options, **more) for more in others)
    for other in rest:
        assert [item.id for item in other.items] == [item.id for item in plain.items]
        scores = [item.score for item in plain.items]
        assert [item.score for item in other.items] == pytest.approx(scores, abs=1e-7)


@pytest.mark.parametrize("by", ["score", "rank"])
def test_a_quota_changes_the_slate_and_no_score(service: Service, by: str) -> None:
    """A quota asks for candidates of its own; ranks stay those among the candidates of the whole."""
    options = {"weights": {"text": 1.0, "item_knn": 1.0}, "by": by}
    quota = {"where": {"op": "range", "attribute": "year", "ge": 1950}, "at_least": 3}
    others: list[dict[str, Any]] = [{}, {"slate": {"quotas": [quota]}}]
    whole, some = (service.recommend_for(k=5, strategy="fusion", options=options, **more) for more in others)
    scores = {item.id: item.score for item in whole.items}
    shared = [item for item in some.items if item.id in scores]
    assert shared
    assert len(shared) < 5
    assert [item.score for item in shared] == pytest.approx([scores[item.id] for item in shared], abs=1e-7)


def test_a_prior_of_nothing_leaves_the_others_out(service: Service) -> None:
    own = parts_of(asked(service, {"text": 1.0, "popular": 1.0}, prior=0.0, k=20))
    assert all(set(parts) == {"text"} for parts in own.values())


def test_who_is_unknown_gets_what_is_not_personal(service: Service) -> None:
    found = service.recommend_for("nobody", strategy="blend", k=3)
    assert found.strategy == "blend"
    assert all(set(item.parts or {}) == {"popular"} for item in found.items)
    with pytest.raises(RequestError) as caught:
        service.recommend_for("nobody", strategy="blend", on_cold="error")
    assert caught.value.kind is ErrorKind.EMPTY_HISTORY


def test_without_parts_it_cannot_answer(service: Service) -> None:
    with pytest.raises(RequestError, match="has no parts: name some in its option weights"):
        service.recommend_for(strategy="fusion")
    with pytest.raises(RequestError, match="has no parts"):
        service.recommend_for(strategy="fusion", options={"weights": {"text": 0.0}})


def test_a_history_is_blended_too(service: Service) -> None:
    """A request without a user has everything that one by user id has."""
    found = service.recommend(history=[{"item": "i20"}], strategy="blend", k=5)
    assert found.strategy == "blend"
    assert found.items[0].id in {"i21", "i150"}
    assert {"text", "item_knn", "popular"} >= set(parts_of(found)["i21"]) >= {"item_knn"}
