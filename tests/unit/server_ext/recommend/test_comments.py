"""Texts about items, without Triton: they multiply the weight of the item where a classifier is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_client.contract import RequestError
from recserve_server_ext.index.snapshot import Snapshot
from support.comments import BAD, GOOD, NOTHING, given_sentiment, with_sentiment
from support.events import ANN, NOW, event
from support.service import vector_of
from support.small_snapshot import small_snapshot
from support.user_service import LIMITS, Service


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"))


@pytest.fixture
def service(plain: Snapshot, store_place: Path | str) -> Iterator[Service]:
    service = Service(with_sentiment(plain, given_sentiment(vector_of)), store_place)
    yield service
    service.store.close()


@pytest.fixture
def without(plain: Snapshot, store_place: Path | str) -> Iterator[Service]:
    """The same, without a classifier."""
    service = Service(plain, store_place)
    yield service
    service.store.close()


def scores(service: Service, **request: Any) -> list[tuple[str, Any]]:
    return [(one.id, pytest.approx(one.score, abs=1e-6)) for one in service.recommend(**request).items]


def weights(service: Service, **request: Any) -> dict[str | None, float]:
    """Weights of Ann's behaviours as the answer tells them."""
    history = service.recommend_for(**request).history
    assert isinstance(history, list)
    return {one.item: one.weight for one in history}


def test_a_comment_multiplies_the_weight_of_its_item(service: Service) -> None:
    commented = [
        {"item": "i1", "text": GOOD},
        {"item": "i2", "text": BAD},
        {"item": "i3", "text": NOTHING, "weight": 3},
    ]
    plain = [{"item": "i1", "weight": 2}, {"item": "i2", "weight": -1}, {"item": "i3", "weight": 3}]
    assert scores(service, history=commented, k=20) == scores(service, history=plain, k=20)
    # From the cache, too.
    assert scores(service, history=commented, k=20) == scores(service, history=plain, k=20)


def test_without_a_classifier_comments_change_nothing_and_are_not_encoded(
    without: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(without, "encode", None)
    without.store.record([event(item="i5", text=BAD)])
    commented = [{"item": "i1", "text": GOOD}, {"item": "i2", "text": BAD}]
    assert scores(without, history=commented) == scores(without, history=[{"item": "i1"}, {"item": "i2"}])
    assert weights(without)["i5"] > 0


def test_comments_of_the_log_weigh_and_ratings_speak_for_themselves(service: Service) -> None:
    service.store.record(
        [
            event(item="i1", type="purchase", text=BAD, timestamp=NOW - 3),
            event(item="i2", type="purchase", timestamp=NOW - 3),
            event(item="i3", type="rating", value=5.0, text=BAD, timestamp=NOW - 3),
            event(item="gone", type="purchase", text=BAD, timestamp=NOW - 3),
        ]
    )
    used = weights(service)
    assert used["i1"] == pytest.approx(-used["i2"])
    assert used["i3"] > 0
    assert used["gone"] == pytest.approx(used["i2"])


def test_a_comment_of_the_session_weighs_after_the_mix(service: Service) -> None:
    service.store.record([event(item="i1", type="purchase", timestamp=NOW - 3)])
    session = [{"item": "i2"}, {"item": "i3", "text": BAD}]
    used = weights(service, session=session)
    assert used == {"i1": pytest.approx(0.5), "i2": pytest.approx(0.25), "i3": pytest.approx(-0.25)}


def test_the_cached_history_keeps_its_weights(service: Service) -> None:
    service.store.record([event(item="i1", type="purchase", text=BAD), event(item="i2", type="purchase")])
    first = service.recommend_for().history
    assert service.recommend_for().history == first


def test_a_change_of_the_classifier_counts_at_once(service: Service, plain: Snapshot) -> None:
    from recserve_server_ext.catalogue.view import View

    service.store.record([event(item="i1", type="purchase", text=BAD), event(item="i2", type="purchase")])
    assert min(weights(service).values()) < 0
    service.handler._newest = lambda: View(plain)
    assert min(weights(service).values()) > 0


def test_the_newest_comments_count_as_far_as_the_limit_of_texts_goes(service: Service) -> None:
    texts = [event(item=f"i{n}", type="purchase", text=BAD, timestamp=NOW - n) for n in range(LIMITS.texts + 2)]
    service.store.record([*texts, event(item=None, type="search", text="jazz")])
    used = weights(service, stated=["blues"])
    negative = [item for item, weight in used.items() if weight < 0]
    assert negative == [f"i{n}" for n in range(LIMITS.texts - 2)]


def test_too_many_comments_of_a_request_are_refused(service: Service) -> None:
    history = [{"item": f"i{n}", "text": f"text {n}"} for n in range(LIMITS.texts + 1)]
    with pytest.raises(RequestError, match=r"limits\.texts"):
        service.recommend(history=history)


def test_learned_spaces_never_get_negative_session_weights() -> None:
    from recserve_server_ext.strategies.base import Profile

    profile = Profile(np.array([1.0, 1.0]), np.array([0, 1]), {}, {}, [], session_weights=np.array([1.0, 1.0]))
    weights = profile.weights
    profile.multiply({1: -2.0})
    assert profile.weights.tolist() == [1.0, -2.0]
    assert profile.session_weights is not None
    assert profile.session_weights.tolist() == [1.0, 0.0]
    assert weights.tolist() == [1.0, 1.0]


def test_an_erased_user_has_no_comments(service: Service) -> None:
    service.store.record([event(item="i1", type="purchase", text=BAD)])
    service.recommend_for()
    service.store.erase(ANN)
    assert not service.store.export(ANN)["interactions"]
