"""Filters, counts and the options of a slate, in requests to `recommend`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from recserve_client.contract import ErrorKind, RequestError, Slate
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.snapshot import Snapshot
from support.edited import ENCODER, Edited
from support.service import Service, vector_of
from support.small_snapshot import small_snapshot

HISTORY = [{"item": "i9"}, {"text": "abc", "weight": 0.5}]
LATE = {"op": "range", "attribute": "year", "ge": 2000}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"), hidden=(5, 6, 150))


@pytest.fixture
def service(snapshot: Snapshot) -> Service:
    return Service(snapshot, Limits())


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    yield edited
    edited.store.close()


def scores_of(snapshot: Snapshot) -> dict[str, float]:
    """Of the available items, without that of the history."""
    user = snapshot.text.vectors[9] + 0.5 * vector_of("abc").astype(np.float64)
    scores = snapshot.text.vectors @ (user / np.linalg.norm(user))
    return {f"i{row}": float(score) for row, score in enumerate(scores) if row not in (5, 6, 150, 9)}


def ids(slate: Slate) -> list[str]:
    return [item.id for item in slate.items]


def kind(service: Service, **options: Any) -> tuple[ErrorKind, str]:
    with pytest.raises(RequestError) as caught:
        service.ask(history=HISTORY, **options)
    return caught.value.kind, caught.value.text


def year(item_id: str) -> int:
    return 1900 + int(item_id[1:])


def test_a_filter_and_the_count(service: Service, snapshot: Snapshot) -> None:
    slate = service.ask(history=HISTORY, k=150, where=LATE, count=True)
    allowed = {name: score for name, score in scores_of(snapshot).items() if year(name) >= 2000}
    assert ids(slate) == sorted(allowed, key=lambda name: -allowed[name])
    assert slate.count == 99  # 100 match, one of them is unavailable
    assert service.ask(history=HISTORY, count=True).count == 197
    plain = service.ask(history=HISTORY)
    assert plain.count is msgspec.UNSET
    assert plain.items[0].boosts is plain.items[0].rules is msgspec.UNSET
    nothing = service.ask(history=HISTORY, where={"op": "eq", "attribute": "year", "value": 1}, count=True)
    assert (nothing.items, nothing.count) == ([], 0)


def test_each_user_of_a_batch_has_its_own_filter(service: Service) -> None:
    wheres = [LATE, None, {"op": "not", "of": LATE}, LATE, {"op": "eq", "attribute": "title", "value": "Title 7"}]
    requests: list[dict[str, Any]] = [{"history": HISTORY, "k": 20, "where": where} for where in wheres]
    requests[3] |= {"slate": {"pins": [{"item": "i180", "place": 2}]}}
    answers = service.send(*(json.dumps(request).encode() for request in requests))
    slates = [msgspec.json.decode(answer, type=Slate) for answer in answers if isinstance(answer, bytes)]
    alone = [service.ask(**request) for request in requests]
    assert [ids(slate) for slate in slates] == [ids(slate) for slate in alone]
    assert ids(slates[4]) == ["i7"]
    assert ids(slates[3])[1] == "i180"


def test_refusals(service: Service) -> None:
    assert kind(service, where={"op": "exists", "attribute": "yaer"}) == (
        ErrorKind.UNKNOWN_FIELD, "the catalogue has no attribute 'yaer'; did you mean 'year'?",
    )  # fmt: skip
    assert kind(service, where={"op": "eq", "attribute": "year", "value": "x"})[0] is ErrorKind.INVALID_REQUEST
    deep: dict[str, Any] = LATE
    for _ in range(40):
        deep = {"op": "not", "of": deep}
    found, text = kind(service, where=deep)
    assert found is ErrorKind.TOO_LARGE
    assert "limits.filter.depth allows 32" in text
    many = {"op": "in", "attribute": "year", "values": list(range(20_000))}
    assert "limits.filter.values" in kind(service, where=many)[1]
    assert "limits.filter.depth" in kind(service, slate={"bury": [{"where": deep}]})[1]
    for option in ("groups", "boosts", "bury", "quotas"):
        place = {"op": "exists", "attribute": "yaer"}
        rule = {
            "groups": {"attribute": "yaer", "at_most": 1},
            "boosts": {"by": "popularity", "attribute": "yaer", "weight": 1},
            "bury": {"where": place},
            "quotas": {"where": place, "at_least": 1},
        }[option]
        assert kind(service, slate={option: [rule]})[0] is ErrorKind.UNKNOWN_FIELD
    assert "place 11" in kind(service, k=10, slate={"pins": [{"item": "i1", "place": 11}]})[1]


def test_a_filter_sees_every_change_at_once(edited: Edited) -> None:
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    service = Service(live.view().snapshot, Limits(), live.view)
    new = {"op": "range", "attribute": "year", "ge": 2000}
    assert service.ask(history=[{"item": "i1"}], where=new, count=True).items == []
    edited.change("upsert", [{"id": "i3", "texts": {"title": "film 3"}, "attributes": {"year": 2001}}])
    edited.change("upsert", [{"id": "n", "texts": {"title": "new"}, "attributes": {"year": 2002, "seen": True}}])
    slate = service.ask(history=[{"item": "i1"}], where=new, count=True)
    assert sorted(ids(slate)) == ["i3", "n"]
    assert slate.count == 2
    # An attribute that only a changed item has.
    seen = {"op": "eq", "attribute": "seen", "value": True}
    assert ids(service.ask(history=[{"item": "i1"}], where=seen)) == ["n"]
    newest = {"by": "recency", "attribute": "year", "half_life": 1, "now": 2002, "weight": 9}
    boosted = service.ask(history=[{"item": "i1"}], k=2, slate={"boosts": [newest]})
    assert ids(boosted) == ["n", "i3"]
    edited.change("delete", [{"id": "n"}])
    edited.change("upsert", [{"id": "i3", "texts": {"title": "film 3"}, "attributes": {"year": 1990}}])
    assert service.ask(history=[{"item": "i1"}], where=new, count=True).count == 0
    assert ids(service.ask(history=[{"item": "i1"}], where={"op": "eq", "attribute": "year", "value": 1990})) == ["i3"]


def test_boosts_are_shares_of_the_score(service: Service, snapshot: Snapshot) -> None:
    boosts = [
        {"by": "recency", "attribute": "year", "half_life": 10, "now": 2099, "weight": 0.3},
        {"by": "popularity", "attribute": "year", "weight": -0.1},
    ]
    slate = service.ask(history=HISTORY, k=10, slate={"boosts": boosts}, exclude=["i0"])
    base = scores_of(snapshot)
    added = {n: 0.3 * 2 ** (-(2099 - year(n)) / 10) - 0.1 * np.log1p(year(n)) / np.log1p(2099) for n in base}
    final = {name: base[name] + added[name] for name in base if name != "i0"}
    assert ids(slate) == sorted(final, key=lambda name: -final[name])[:10]
    for item in slate.items:
        assert isinstance(item.boosts, list)
        assert isinstance(item.contributions, list)
        assert len(item.boosts) == 2
        assert item.rules is msgspec.UNSET
        assert sum(item.contributions) + sum(item.boosts) == pytest.approx(item.score, abs=1e-5)
        # float32 scores: 1e-5.
        assert item.score == pytest.approx(final[item.id], abs=1e-5)


def test_rules_name_what_they_moved(service: Service, snapshot: Snapshot) -> None:
    first, last = {"op": "range", "attribute": "year", "lt": 1905}, {"op": "eq", "attribute": "year", "value": 1930}
    best = ids(service.ask(history=HISTORY, k=5))
    slate = service.ask(
        history=HISTORY,
        k=5,
        slate={
            "pins": [{"item": "i77", "place": 2, "name": "launch"}, {"item": "i5", "place": 4}],
            "bury": [{"where": {"op": "eq", "attribute": "title", "value": f"Title {best[0][1:]}"}}],
            "quotas": [{"where": first, "at_least": 1, "name": "old"}, {"where": last, "at_least": 1}],
        },
    )
    assert ids(slate)[1] == "i77"
    assert slate.items[1].rules == ["launch"]
    assert best[0] not in ids(slate)
    # Both quotas are met although their items are not among the 100 nearest.
    assert "i30" in ids(slate)
    assert any(year(name) < 1905 for name in ids(slate))
    assert "i5" not in ids(slate)  # unavailable
    assert service.ask(history=HISTORY, k=3, slate={"pins": [{"item": "i9", "place": 1}]}).items[0].id != "i9"


def test_min_score_groups_and_diversity(service: Service, snapshot: Snapshot) -> None:
    scores = scores_of(snapshot)
    least = sorted(scores.values())[-4]
    assert len(service.ask(history=HISTORY, k=10, slate={"min_score": least - 1e-4}).items) == 4
    grouped = service.ask(history=HISTORY, k=10, slate={"groups": [{"attribute": "title", "at_most": 1}]})
    assert ids(grouped) == ids(service.ask(history=HISTORY, k=10))
    spread = service.ask(history=HISTORY, k=10, slate={"diversify": 0.7})
    assert ids(spread)[0] == ids(grouped)[0]
    assert ids(spread) != ids(grouped)


def test_a_slate_that_groups_left_short_is_made_of_more_candidates(edited: Edited) -> None:
    items = [
        {"id": f"a{n}", "texts": {"title": "same"}, "attributes": {"maker": "one" if n < 150 else f"m{n}"}}
        for n in range(153)
    ]
    for item in items[150:]:
        item["texts"] = {"title": "not same"}
    edited.change("upsert", items)
    service = Service(Snapshot.load(edited.publish(), encoder=ENCODER), Limits())
    where = {"op": "exists", "attribute": "maker"}
    group = {"groups": [{"attribute": "maker", "at_most": 1}]}
    slate = service.ask(history=[{"item": "a0"}], k=4, where=where, slate=group)
    assert {"a150", "a151", "a152"} < set(ids(slate))
    assert len(slate.items) == 4


def test_a_quota_keeps_to_the_filter(service: Service) -> None:
    quota = {"where": {"op": "range", "attribute": "year", "lt": 2004}, "at_least": 2}
    request = {"history": HISTORY, "k": 4, "where": LATE, "slate": {"quotas": [quota]}}
    other = {**request, "history": [{"item": "i20"}]}
    answers = service.send(*(json.dumps(body).encode() for body in (request, other)))
    for answer in answers:
        assert isinstance(answer, bytes)
        years = [year(name) for name in ids(msgspec.json.decode(answer, type=Slate))]
        assert len(years) == 4
        assert min(years) >= 2000
        assert sum(found < 2004 for found in years) >= 2
