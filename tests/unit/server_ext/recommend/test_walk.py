"""The walk of a request: times, sources, and the verdict on every item of the catalogue."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from msgspec import UNSET

from recserve_client.contract import ErrorKind, RequestError, Slate, SlateWalk, WalkItem
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.fields import ItemFields
from recserve_server_ext.index.snapshot import Snapshot
from support.edited import ENCODER, Edited
from support.events import NOW, PSEUDONYMS, event
from support.service import Service
from support.small_snapshot import small_snapshot
from support.user_service import Service as UserService

ITEMS, HIDDEN = 200, (5, 6, 150)
HISTORY = [{"item": "i9"}, {"text": "abc", "weight": 0.5}]
LATE = {"op": "range", "attribute": "year", "ge": 2000}
NEW = [f"i{row}" for row in range(20)]


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"), hidden=HIDDEN)


@pytest.fixture
def service(snapshot: Snapshot) -> Service:
    return Service(snapshot, Limits())


@pytest.fixture
def users(tmp_path: Path, snapshot: Snapshot) -> Iterator[UserService]:
    users = UserService(snapshot, tmp_path / "log.db")
    for user in range(8):
        events = [event(PSEUDONYMS.of(f"user {user}"), f"i{user + row}", timestamp=NOW - row) for row in range(10, 16)]
        users.store.record(events)
    users.counter.count()
    yield users
    users.store.close()


def walk_in(slate: Slate) -> SlateWalk:
    assert slate.walk is not UNSET
    return slate.walk


def verdicts(service: Service | UserService, **request: Any) -> tuple[Slate, dict[str, WalkItem]]:
    """A slate, and what became of every item of the catalogue."""
    ask = service.ask if isinstance(service, Service) else service.recommend
    found: dict[str, WalkItem] = {}
    for start in range(0, ITEMS, 20):
        slate = ask(**request, walk={"items": [f"i{row}" for row in range(start, start + 20)]})
        found |= {item.id: item for item in walk_in(slate).items}
    return slate, found


def counted(found: dict[str, WalkItem]) -> dict[str, int]:
    return dict(Counter(item.verdict for item in found.values()))


def test_there_is_no_walk_unless_it_is_asked_for(service: Service) -> None:
    plain = service.ask(history=HISTORY)
    walked = service.ask(history=HISTORY, walk={})
    assert plain.walk is UNSET
    assert walk_in(walked).items == []
    assert [item.id for item in walked.items] == [item.id for item in plain.items]


def test_stages_add_up_to_the_timings_and_say_what_is_left(service: Service) -> None:
    slate = service.ask(history=HISTORY, k=3, slate={"min_score": 0.0, "diversify": 0.5}, walk={})
    stages = {stage.name: stage for stage in walk_in(slate).stages}
    assert list(stages) == ["resolve", "queue", "encode", "candidates", "score", "rules", "explain"]
    search_us = sum(stages[name].took_us for name in ("candidates", "score", "rules"))
    assert search_us <= slate.timings.search_us <= search_us + 3
    assert stages["explain"].took_us == slate.timings.explain_us
    left = [stages[name].items for name in ("candidates", "score", "rules", "explain")]
    assert left[0] == 100
    assert left == sorted(left, reverse=True)  # type: ignore[type-var]
    assert left[2:] == [3, 3]
    assert stages["encode"].items is UNSET


def test_every_item_has_a_verdict(service: Service) -> None:
    slate, found = verdicts(service, history=HISTORY, k=4, exclude=["i20", "i21"])
    assert counted(found) == {
        "in_slate": 4, "unavailable": len(HIDDEN), "excluded": 2, "seen": 1,
        "not_proposed": ITEMS - 4 - len(HIDDEN) - 2 - 1,
    }  # fmt: skip
    assert [found[item.id].why for item in slate.items] == [f"place {place}" for place in range(1, 5)]
    assert [found[item.id].rank for item in slate.items] == [1, 2, 3, 4]
    least = slate.items[-1].score
    for item in slate.items:
        assert found[item.id].score == pytest.approx(item.score)
        assert found[item.id].sources == ["text"]
    for one in found.values():
        if one.verdict == "not_proposed":
            assert isinstance(one.score, float)
            assert one.score < least
            assert f"below {least:.6g} of the last candidate" in one.why
    assert found["i9"].why == "it is in the history (`exclude_history`)"


def test_rules_say_what_they_did(service: Service) -> None:
    rules = {
        "min_score": 0.1,
        "pins": [{"item": "i1", "place": 2, "name": "campaign"}],
        "bury": [{"where": {"op": "range", "attribute": "year", "ge": 2000}, "name": "too new"}],
    }
    slate, found = verdicts(service, history=HISTORY, k=6, slate=rules)
    assert found["i1"].why == "place 2; put there by campaign"
    assert found["i1"].sources[-1] == "pins"
    assert {"buried", "min_score", "outranked", "in_slate", "not_proposed"} <= set(counted(found))
    for item in found.values():
        if item.verdict == "buried":
            assert int(item.id[1:]) >= 100
            assert "'too new'" in item.why
        elif item.verdict == "min_score":
            assert isinstance(item.score, float)
            assert item.score < 0.1
        elif item.verdict == "outranked":
            assert isinstance(item.score, float)
            assert item.score <= min(one.score for one in slate.items if one.rules is UNSET)
            assert isinstance(item.rank, int)
            assert item.rank > 5
            assert f"{item.rank - 1} candidates rank before it" in item.why


def test_a_candidate_that_a_pin_displaced(service: Service) -> None:
    history = [{"item": "i9"}]
    sixth = service.ask(history=history, k=6).items[-1].id
    pins = {"pins": [{"item": "i1", "place": 1, "name": "campaign"}]}
    (item,) = walk_in(service.ask(history=history, k=6, slate=pins, walk={"items": [sixth]})).items
    assert (item.verdict, item.rank) == ("displaced", 6)
    assert item.why == "it ranks 6, and its place went to: campaign"


def test_a_filter_and_its_quota(service: Service) -> None:
    quotas = {"quotas": [{"where": LATE, "at_least": 2, "name": "late"}]}
    slate, found = verdicts(service, history=HISTORY, k=3, where={"op": "not", "of": LATE})
    assert counted(found)["filtered"] == sum(row >= 100 and row not in HIDDEN for row in range(ITEMS))
    slate, found = verdicts(service, history=HISTORY, k=3, slate=quotas)
    (quota,) = [source for source in walk_in(slate).sources if source.kind == "quota"]
    assert (quota.name, quota.candidates) == ("late", 2)
    assert quota.in_slate >= 1


def test_diversity_passes_over_what_is_similar(service: Service) -> None:
    slate, found = verdicts(service, history=HISTORY, k=5, slate={"diversify": 0.9})
    passed = [item for item in found.values() if item.verdict == "diversity"]
    assert passed
    ranks = [found[item.id].rank for item in slate.items]
    assert max(item.rank for item in passed) < max(ranks)  # type: ignore[type-var, operator]
    assert all(isinstance(item.score, float) for item in passed)
    assert all(item.score >= min(one.score for one in slate.items) for item in passed)  # type: ignore[operator]


def test_a_group_that_is_full(snapshot: Snapshot) -> None:
    halves = ItemFields(pa.table({"half": [row % 2 for row in range(ITEMS)]}))
    service = Service(dataclasses.replace(snapshot, fields=halves), Limits())
    group = {"attribute": "half", "at_most": 1}
    slate, found = verdicts(service, history=HISTORY, k=5, slate={"groups": [group]})
    assert len(slate.items) == 2
    full = [item for item in found.values() if item.verdict == "group_limit"]
    assert full
    assert {item.why for item in full} == {"1 items with the same 'half' are in the slate"}


def test_a_later_page_and_a_cursor(service: Service) -> None:
    request = {"history": HISTORY, "k": 6}
    all_ids = [item.id for item in service.ask(**request).items]
    slate = service.ask(**request, page={"size": 2}, walk={"items": all_ids})
    assert [item.verdict for item in walk_in(slate).items] == ["in_slate"] * 2 + ["later_page"] * 4
    assert walk_in(slate).items[-1].why == "it is item 6 of 6: on a later page"
    after = service.ask(**request, page={"size": 2, "cursor": slate.cursor})
    assert [item.id for item in after.items] == all_ids[2:4]
    with pytest.raises(RequestError, match="walk and a cursor") as refused:
        service.ask(**request, page={"size": 2, "cursor": slate.cursor}, walk={})
    assert refused.value.kind == ErrorKind.INVALID_REQUEST


def test_interests_and_new_items_are_sources(service: Service) -> None:
    slate = service.ask(
        history=[{"item": f"i{row}"} for row in range(10, 30)], interests=3, walk={"items": NEW},
        new_items={"attribute": "year", "half_life": 5, "weight": 0.3, "now": 2099},
    )  # fmt: skip
    sources = walk_in(slate).sources
    own = [source for source in sources if source.kind == "strategy"]
    assert [source.interest for source in own] == list(range(len(slate.interests)))  # type: ignore[arg-type]
    (newest,) = [source for source in sources if source.kind == "new_items"]
    assert newest.candidates + len(own) > 0
    assert sum(source.in_slate for source in sources) >= len(slate.items)


def test_exploration_displaces(service: Service) -> None:
    explore = {"epsilon": 1.0, "at_most": 0.5, "seed": 3, "pool": 20}
    slate, found = verdicts(service, history=HISTORY, k=4, explore=explore)
    drawn = [item for item in slate.items if item.explored is True]
    assert len(drawn) == 2
    assert all(found[item.id].why.endswith("drawn to explore") for item in drawn)
    displaced = [item for item in found.values() if item.verdict == "displaced"]
    assert [item.rank for item in sorted(displaced, key=lambda item: item.rank)] == [3, 4]  # type: ignore[arg-type, return-value]
    assert all(item.why.endswith("went to: exploration") for item in displaced)


def test_a_fusion_tells_its_parts(users: UserService) -> None:
    slate = users.recommend_for("user 1", strategy="blend", walk={"items": ["i12", "i40"]})
    walk = walk_in(slate)
    parts = {source.name: source for source in walk.sources if source.kind == "part"}
    assert {"item_knn", "popular"} <= set(parts)
    assert walk.sources[0].name == walk.asked == "blend"
    assert parts["popular"].candidates > 0
    assert sum(part.in_slate for part in parts.values()) >= len(slate.items)
    seen, other = walk.items
    assert (seen.verdict, seen.why) == ("seen", "the user saw it (`exclude_seen`)")
    assert isinstance(other.parts, dict)
    assert set(other.parts) <= {"item_knn", "popular", "text"}


def test_a_cold_user_gets_the_fallback(users: UserService) -> None:
    slate = users.recommend_for("nobody", strategy="item_knn", walk={})
    walk = walk_in(slate)
    assert (walk.asked, slate.strategy) == ("item_knn", "popular")
    assert walk.cold == "no usable interaction of the user is recorded"
    assert walk_in(users.recommend_for("user 1", walk={})).cold is UNSET


def test_the_fallback_fills_up(users: UserService) -> None:
    slate = users.recommend_for("user 1", strategy="item_knn", k=12, walk={})
    kinds = {source.kind: source for source in walk_in(slate).sources}
    assert kinds["fallback"].name == "popular"
    assert kinds["strategy"].in_slate + kinds["fallback"].in_slate == len(slate.items)


def test_an_unknown_and_a_deleted_item(tmp_path: Path) -> None:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    edited.change("delete", [{"id": "i3"}])
    slate = Service(live.view().snapshot, Limits(), live.view).ask(
        history=[{"item": "i9"}], walk={"items": ["i3", "<b>"]}
    )
    edited.store.close()
    assert [item.verdict for item in walk_in(slate).items] == ["not_in_catalogue"] * 2
    assert walk_in(slate).items[0].score is UNSET


def test_items_to_explain_are_bounded(service: Service) -> None:
    with pytest.raises(RequestError, match="<= 20"):
        service.ask(history=HISTORY, walk={"items": [f"i{row}" for row in range(21)]})


def test_a_pin_is_no_candidate_to_compare_with(service: Service) -> None:
    """The score of a pin may be far below what the strategy proposed."""
    pins = {"pins": [{"item": "i1", "place": 1}]}
    slate, found = verdicts(service, history=HISTORY, k=3, slate=pins)
    (proposed,) = [source for source in walk_in(slate).sources if source.kind == "strategy"]
    assert proposed.candidates == 3
    least = min(item.score for item in found.values() if "text" in item.sources)  # type: ignore[type-var]
    others = [item for item in found.values() if item.verdict == "not_proposed"]
    assert others
    assert all(f"is below {least:.6g} of the last candidate" in item.why for item in others)


def test_a_walk_says_what_answered(service: Service, snapshot: Snapshot) -> None:
    served = walk_in(service.ask(history=HISTORY, walk={})).served
    assert (served.snapshot, served.trained, served.experiments) == (
        snapshot.manifest.id, snapshot.manifest.trained, {},
    )  # fmt: skip
