"""What a request by user id can ask for besides its history: filters, options, blends, interests, exploration ..."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from recserve_client.contract import ErrorKind, RequestError, Slate, SlateItem
from recserve_client.where import parse_where
from recserve_server_ext.index.snapshot import Snapshot
from support.answers import by_user, log_of
from support.events import ANN, BOB, NOW, PSEUDONYMS, event
from support.user_service import OTHERS, Service, parts_of

YOUNG: dict[str, Any] = msgspec.to_builtins(parse_where("year >= 2000"))


def test_a_new_choice_is_served_without_a_restart(snapshot: Snapshot, tmp_path: Path) -> None:
    choices: list[dict[str, Any]] = [{}]
    service = Service(snapshot, tmp_path / "store.db", chosen=lambda: choices[-1])
    service.store.record([event(item="i20")])
    assert service.recommend_for(strategy="auto").strategy == "text"
    choices.append({"few": {"strategy": "blend", "options": {"prior": 3.0}}})
    assert service.recommend_for(strategy="auto").strategy == "blend"
    # What cannot be served stays as it was.
    choices.append({"few": {"strategy": "gone"}})
    assert service.recommend_for(strategy="auto").strategy == "blend"
    service.store.close()


def ids(found: Slate) -> list[str]:
    return [item.id for item in found.items]


def shares(item: SlateItem) -> list[float]:
    """All that must add up to the score."""
    parts = parts_of(item)
    contributions = item.contributions or []
    assert isinstance(contributions, list)
    assert sum(contributions) == pytest.approx(parts.get("text", 0) + parts.get("item_knn", 0), abs=1e-6)
    boosts = item.boosts if isinstance(item.boosts, list) else []
    return [*contributions, parts.get("popular", 0), parts.get("new", 0), *boosts]


def test_filters_and_options_are_those_of_recommend(busy: Service) -> None:
    used = busy.recommend_for(k=1).history
    assert isinstance(used, list)
    history = [{"item": one.item, "weight": one.weight} for one in used]
    options = {
        "diversify": 0.3,
        "boosts": [{"by": "recency", "attribute": "year", "half_life": 20, "weight": 0.2, "now": 2100}],
        "pins": [{"item": "i190", "place": 2}],
        "quotas": [{"where": YOUNG, "at_least": 5}],
    }
    for more in ({"where": YOUNG, "count": True}, {"slate": options}, {"slate": options, "where": YOUNG}, {"ef": 300}):
        found = busy.recommend_for(k=7, **more)
        expected = busy.recommend(history=history, k=7, **more)
        assert [(item.id, item.score, item.rules) for item in found.items] == [
            (item.id, item.score, item.rules) for item in expected.items
        ]
        assert found.count == expected.count
    with pytest.raises(RequestError, match="min_revision"):
        busy.recommend_for(min_revision=4)
    with pytest.raises(RequestError, match="no attribute"):
        busy.recommend_for(where=msgspec.to_builtins(parse_where('"sea" in colour')))


SAME: list[dict[str, Any]] = [
    {"interests": 3},
    {"interests": 3, "where": YOUNG},
    {"explore": {"epsilon": 0.8, "at_most": 0.5, "seed": 3}},
    {"explore": {"kind": "thompson", "epsilon": 0.8, "at_most": 0.5, "seed": 3}},
    {"new_items": {"attribute": "year", "half_life": 3, "weight": 2.0, "now": 2099}},
    {"fields": ["title", "year"], "explain": False},
    {"strategy": "popular", "options": {"window": "all"}},
    {"strategy": "fusion", "options": {"weights": {"text": 1.0, "popular": 0.5}, "prior": 1.0}},
    {"page": {"size": 3}, "where": YOUNG, "count": True},
    {"exclude": ["i190", "i191"], "slate": {"groups": [{"attribute": "title", "at_most": 1}]}},
]


@pytest.mark.parametrize("options", SAME, ids=[" ".join(map(str, options)) for options in SAME])
def test_every_option_does_the_same_for_a_history_and_for_a_user(busy: Service, options: dict[str, Any]) -> None:
    used = busy.recommend_for(k=1).history
    assert isinstance(used, list)
    history = [{"item": one.item, "weight": one.weight} for one in used]
    if options.get("strategy") == "fusion":
        # What was long ago counts less than what is in the request.
        options = {**options, "options": {**options["options"], "stale_half_life_s": 1e12}}
    found, expected = busy.recommend_for(k=8, **options), busy.recommend(history=history, k=8, **options)
    for one, other in zip(found.items, expected.items, strict=True):
        assert (one.id, one.fields, one.rules, one.interest, one.explored, one.propensity, one.facts) == (
            other.id, other.fields, other.rules, other.interest, other.explored, other.propensity, other.facts,
        )  # fmt: skip
        assert one.score == pytest.approx(other.score, abs=1e-6)
    assert (found.strategy, found.count, found.interests) == (expected.strategy, expected.count, expected.interests)
    assert (found.cursor is msgspec.UNSET) == (expected.cursor is msgspec.UNSET)


def test_pages_of_a_user_are_the_ranking(busy: Service) -> None:
    everything = ids(busy.recommend_for(k=20, strategy="blend"))
    pages: list[str] = []
    cursor: Any = None
    for _ in range(4):
        found = busy.recommend_for(k=20, strategy="blend", page={"size": 6, "cursor": cursor})
        pages += ids(found)
        assert sum(shares(found.items[0])) == pytest.approx(found.items[0].score, abs=1e-6)
        cursor = found.cursor
    assert pages == everything
    assert cursor is msgspec.UNSET


def test_a_history_of_nothing_usable_may_fall_back(busy: Service) -> None:
    cancelling = [{"item": "i20"}, {"item": "i20", "weight": -1.0}]
    for history in (cancelling, [{"item": "gone"}]):
        request = {"history": history, "on_unknown": "ignore", "k": 3}
        with pytest.raises(RequestError):
            busy.recommend(**request)
        found = busy.recommend(**request, on_cold="fallback")
        assert (found.strategy, ids(found)[0]) == ("popular", "i150")
    with pytest.raises(RequestError) as caught:
        busy.recommend_for("nobody", on_cold="error")
    assert caught.value.kind is ErrorKind.EMPTY_HISTORY


def test_what_is_popular_is_filtered_and_shaped_too(busy: Service) -> None:
    assert ids(busy.recommend_for("new", k=3))[0] == "i150"
    old = msgspec.to_builtins(parse_where("year < 1930"))
    found = busy.recommend_for("new", where=old, count=True)
    assert ids(found) == ["i20", "i21", "i22", "i9"]
    assert found.count == 28
    assert [item.facts["users"] for item in found.items if isinstance(item.facts, dict)] == [13, 8, 4, 1]
    pinned = busy.recommend_for("new", k=2, slate={"pins": [{"item": "i77", "place": 1}]})
    assert ids(pinned) == ["i77", "i150"]
    assert pinned.items[0].rules == ["pin"]


def test_a_blend_knows_what_goes_together_and_its_shares_add_up(busy: Service) -> None:
    found = busy.recommend_for(strategy="blend", k=10, slate={"boosts": [
        {"by": "recency", "attribute": "year", "half_life": 20, "weight": 0.2, "now": 2100}
    ]})  # fmt: skip
    assert found.strategy == "blend"
    # Of two behaviours popularity has 5 parts in 7.
    assert set(ids(found)[:3]) == {"i21", "i22", "i150"}
    assert not {"i20", "i9"} & set(ids(found))
    assert isinstance(found.history, list)
    for item in found.items:
        assert sum(shares(item)) == pytest.approx(item.score, abs=1e-6)
        assert isinstance(item.contributions, list)
        assert len(item.contributions) == len(found.history)
    first = found.items[ids(found).index("i21")]
    assert isinstance(first.contributions, list)
    assert found.history[0].item == "i20"
    assert first.contributions[0] > abs(first.contributions[1])
    assert [item.score for item in found.items] == sorted((i.score for i in found.items), reverse=True)
    assert all(year >= 2000 for year in _years(busy.recommend_for(strategy="blend", where=YOUNG, fields=["year"])))


def _years(found: Slate) -> list[int]:
    assert found.items
    return [item.fields["year"] for item in found.items if isinstance(item.fields, dict)]


def test_a_dislike_does_not_bring_what_goes_with_it(busy: Service) -> None:
    busy.store.record([event(BOB, item="i20", type="dislike"), event(BOB, item="i9")])
    found = busy.recommend_for("bob", strategy="blend", k=200)
    for item in found.items:
        assert parts_of(item).get("item_knn", 0) == 0
    busy.store.record([event(BOB, item="i20", type="like", timestamp=NOW)])
    items = busy.recommend_for("bob", strategy="blend", k=200).items
    assert {item.id: parts_of(item) for item in items}["i21"]["item_knn"] > 0


def test_several_interests_share_a_slate_and_each_item_names_its_own(busy: Service) -> None:
    vectors = busy.handler._data.view.snapshot.text.vectors
    first, second = "i30", f"i{int((vectors @ vectors[30]).argmin())}"
    busy.store.record([event(BOB, item=first, type="like"), event(BOB, item=second)])
    found = busy.recommend_for("bob", interests=4, k=9)
    assert isinstance(found.interests, list)
    assert len(found.interests) == 2
    assert sum(found.interests) == pytest.approx(1.0)
    assert isinstance(found.history, list)
    number_of = {used.item: used.interest for used in found.history}
    assert number_of == {first: 0, second: 1}
    numbers = [item.interest for item in found.items]
    assert abs(numbers.count(0) - 9 * found.interests[0]) <= 1
    for item in found.items:
        assert sum(shares(item)) == pytest.approx(item.score, abs=1e-6)
    for number, own in ((0, first), (1, second)):
        alone = busy.recommend(history=[{"item": own}], exclude=[first, second], k=9)
        expected = [item.id for item in alone.items]
        assert [item.id for item in found.items if item.interest == number] == expected[: numbers.count(number)]
    grouped = busy.recommend_for("bob", interests=4, k=9, slate={"groups": [{"attribute": "title", "at_most": 1}]})
    assert len(grouped.items) == 9
    assert ids(busy.recommend_for("bob", interests=1, k=9)) != ids(found)


def test_exploration_is_marked_with_its_propensity_and_keeps_to_filters(busy: Service) -> None:
    explore = {"epsilon": 1.0, "at_most": 0.3, "pool": 20, "seed": 5}
    plain = ids(busy.recommend_for(k=10, where=YOUNG))
    found = busy.recommend_for(k=10, where=YOUNG, explore=explore, fields=["year"])
    assert ids(found)[:7] == plain[:7]
    marks = [item.explored for item in found.items]
    assert marks == [False] * 7 + [True] * 3
    assert [item.propensity for item in found.items] == [1.0] * 7 + [1.0 / 20] * 3
    assert not set(ids(found)[7:]) & set(plain)
    assert all(year >= 2000 for year in _years(found))
    assert ids(busy.recommend_for(k=10, where=YOUNG, explore=explore)) == ids(found)
    for item in found.items:
        assert sum(shares(item)) == pytest.approx(item.score, abs=1e-6)
    none = busy.recommend_for(k=10, explore={"epsilon": 0.0})
    assert ids(none) == ids(busy.recommend_for(k=10))
    assert [item.propensity for item in none.items] == [1.0] * 10


def test_thompson_sampling_tries_what_was_clicked_when_it_was_recommended(busy: Service) -> None:
    explore = {"kind": "thompson", "epsilon": 1.0, "at_most": 0.2, "pool": 20, "seed": 5}
    first = busy.recommend_for(k=10, where=YOUNG, explore=explore, fields=["year"])
    assert [item.explored for item in first.items] == [False] * 8 + [True] * 2
    # Nothing was logged: each candidate is as likely as another.
    assert [item.propensity for item in first.items] == pytest.approx([1.0] * 8 + [1.0 / 20] * 2, abs=1e-5)
    assert all(year >= 2000 for year in _years(first))
    assert ids(busy.recommend_for(k=10, where=YOUNG, explore=explore)) == ids(first)
    candidates = ids(busy.recommend_for(k=30, where=YOUNG))[10:]
    clicked, ignored = candidates[-1], candidates[0]
    log = log_of(busy.store)
    for n in range(60):
        log.offer(by_user(f"r{n}", [clicked, ignored]), OTHERS[0], keys=PSEUDONYMS.fingerprint)
    log.flush()
    log.close()
    clicks = [event(OTHERS[0], item=clicked, recommendation_id=f"r{n}", timestamp=NOW + n / 100) for n in range(40)]
    busy.store.record(clicks)
    busy.counter.count()
    shown = []
    for seed in range(20):
        found = busy.recommend_for(k=10, where=YOUNG, explore={**explore, "seed": seed})
        # It is popular by now, but not with the strategy `text`.
        assert ids(found)[:8] == ids(first)[:8]
        assert ids(found)[8] == clicked
        assert found.items[8].propensity == pytest.approx(1.0, abs=1e-3)
        shown.append(ids(found)[9])
    assert ignored not in shown
    assert len(set(shown)) > 5


def test_a_new_item_gets_a_bounded_share_and_a_place_among_the_candidates(busy: Service) -> None:
    new = {"attribute": "year", "half_life": 2, "weight": 30.0, "now": 2099}
    found = busy.recommend_for(k=5, strategy="blend", new_items=new)
    assert ids(found)[0] == "i199"
    first = parts_of(found.items[0])
    assert first["new"] == pytest.approx(30.0)
    assert first["item_knn"] == first["popular"] == 0
    for item in found.items:
        assert sum(shares(item)) == pytest.approx(item.score, abs=1e-6)
    with pytest.raises(RequestError, match="needs a number"):
        busy.recommend_for(new_items={**new, "attribute": "title"})


def test_types_that_may_repeat_come_again_unless_there_was_another(service: Service) -> None:
    service.store.record(
        [
            event(item="i10", type="listen", duration_s=30.0),
            event(item="i11", type="listen", duration_s=30.0),
            event(item="i11", type="like"),
            event(item="i12", type="purchase"),
            event(item="i13", type="dislike"),
        ]
    )
    everything = {f"i{row}" for row in range(200)} - {"i5", "i6"}

    def missing(**request: Any) -> set[str]:
        return everything - set(ids(service.recommend_for(k=200, **request)))

    assert missing() == {"i10", "i11", "i12", "i13"}
    assert missing(allow_repeat=["listen"]) == {"i11", "i12", "i13"}
    assert missing(allow_repeat=["listen", "like", "purchase"]) == {"i13"}
    assert missing(allow_repeat=["listen"], session=[{"item": "i10"}]) == {"i10", "i11", "i12", "i13"}


def test_the_context_of_the_visit_decides_what_is_popular(anywhere: Service) -> None:
    service = anywhere
    for user in OTHERS:
        tv = event(user, item="i40", context={"device": "tv"})
        service.store.record([tv, event(user, item="i41"), event(user, item="i42")])
    service.store.record([event(BOB, item="i41")])
    service.counter.count()
    assert ids(service.recommend_for("new", k=1)) == ["i41"]
    assert ids(service.recommend_for("new", k=3, context={"device": "tv"})) == ["i40"]
    assert ids(service.recommend_for("new", k=1, context={"device": "phone", "size": "small"})) == ["i41"]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "magic"}, "strategy"),
    ({"interests": 9}, "interests"),
    ({"stated": [" "]}, "blank"),
    ({"explore": {"at_most": 0.6}}, "at_most"),
    ({"explore": {}, "slate": {"quotas": [{"where": YOUNG, "at_least": 1}]}}, "quotas"),
    ({"interests": 2, "slate": {"diversify": 0.5}}, "diversify"),
    ({"slate": {"pins": [{"item": "i1", "place": 11}]}}, "11"),
]


@pytest.mark.parametrize(("request_", "named"), REFUSED, ids=[named for _, named in REFUSED])
def test_what_cannot_be_is_refused(service: Service, request_: dict[str, Any], named: str) -> None:
    with pytest.raises(RequestError, match=named) as refused:
        service.recommend_for(**request_)
    assert refused.value.kind is ErrorKind.INVALID_REQUEST


def test_the_walk_of_a_logged_answer_is_worked_out_again(busy: Service) -> None:
    answered = busy.recommend_for(k=5, strategy="blend", exclude_seen=False)
    assert answered.history
    again = busy.recommend(walk={"items": ["i150"], "recommendation_id": answered.recommendation_id})
    assert [item.id for item in again.items] == [item.id for item in answered.items]
    assert again.walk is not msgspec.UNSET
    assert again.walk.asked == "blend"
    assert [item.id for item in again.walk.items] == ["i150"]
    # It names neither the user's behaviours nor what each adds, and is not logged.
    assert again.history is msgspec.UNSET
    assert all(item.contributions is msgspec.UNSET for item in again.items)
    assert busy.recommend_for(k=5, walk={}).walk is not msgspec.UNSET
    assert len(busy.logged) == 1
    busy.store.erase(ANN)
    assert busy.recommend_for(k=5).recommendation_id != answered.recommendation_id
    with pytest.raises(RequestError, match="is not held"):
        busy.recommend(walk={"recommendation_id": answered.recommendation_id})
