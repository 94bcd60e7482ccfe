"""Recommendations by user id, without Triton: what they are made from, mixed with a session, and when there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from recserve_client.contract import ErrorKind, RequestError, Slate
from recserve_export.interactions.preview import preview_of
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.strategies.base import mixed
from support.events import ANN, BOB, NOW, PSEUDONYMS, event
from support.examples import examples
from support.service import vector_of
from support.user_service import Service


@pytest.fixture
def service(snapshot: Snapshot, store_place: Path | str) -> Iterator[Service]:
    service = Service(snapshot, store_place)
    yield service
    service.store.close()


EVENTS = st.lists(
    st.tuples(st.integers(7, 199), st.sampled_from(["view", "like", "purchase", "dislike"]), st.integers(0, 10**6)),
    min_size=1,
    max_size=30,
)


@examples(25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(done=EVENTS, k=st.integers(1, 30))
def test_equals_recommend_with_the_history_that_preview_shows(
    service: Service, done: list[tuple[int, str, int]], k: int
) -> None:
    service.store.erase(ANN)
    with service.store.database.writing() as connection:
        connection.exec_driver_sql("DELETE FROM erased_users")
    service.store.record([event(item=f"i{row}", type=kind, timestamp=NOW - ago) for row, kind, ago in done])
    preview = preview_of(service.store.window([ANN]), service.rules)
    history = [{"item": row.subject, "weight": row.weight} for row in preview.rows]
    found = service.recommend_for(k=k)
    (answer,) = service.batch({"history": history, "k": k, "exclude": []})
    if isinstance(answer, RequestError):
        assert answer.kind is ErrorKind.VECTORS_CANCEL
        assert (found.strategy, found.history) == ("popular", msgspec.UNSET)
        return
    assert isinstance(found.history, list)
    # preview sorts by time alone: among equal times the order may differ.
    used = sorted((used.item or "", used.weight) for used in found.history)
    assert used == sorted((row.subject, row.weight) for row in preview.rows)
    expected = msgspec.json.decode(answer, type=Slate)
    assert found.strategy == "text"
    assert [item.id for item in found.items] == [item.id for item in expected.items]
    assert [item.score for item in found.items] == pytest.approx([item.score for item in expected.items], abs=1e-6)


def test_the_next_recommendation_knows_what_was_just_recorded(service: Service) -> None:
    service.store.record([event(item="i9")])
    first = service.recommend_for(k=3)
    service.store.record([event(item="i50", type="purchase", timestamp=NOW)])
    second = service.recommend_for(k=3)
    assert [item.id for item in first.items] != [item.id for item in second.items]
    assert isinstance(second.history, list)
    assert [used.item for used in second.history] == ["i50", "i9"]


def test_contributions_add_up_in_the_order_of_the_history(service: Service) -> None:
    service.store.record([event(item="i9"), event(item="i10", type="dislike"), event(item=None, text="sea")])
    found = service.recommend_for(session=[{"text": "space"}], k=5)
    assert isinstance(found.history, list)
    assert {(used.origin, used.item or used.text) for used in found.history} == {
        ("session", "space"), ("long_term", "i9"), ("long_term", "i10"), ("long_term", "sea"),
    }  # fmt: skip
    place = [used.text for used in found.history].index("space")
    for item in found.items:
        assert isinstance(item.contributions, list)
        assert sum(item.contributions) == pytest.approx(item.score, abs=1e-5)
        assert np.sign(item.contributions[place]) == np.sign(found_dot(service, item.id, "space"))
    assert service.recommend_for(explain=False).history is msgspec.UNSET


def found_dot(service: Service, item: str, text: str) -> float:
    view = service.handler._data.view
    return float(vector_of(text) @ view.text.vectors(np.array([view.row_of.get(item, -1)]))[0])


@given(
    session=st.lists(st.floats(-10, 10), max_size=5),
    known=st.lists(st.floats(-10, 10), max_size=5),
    mix=st.floats(0, 1),
)
def test_the_mix_is_the_sessions_part_of_the_weights(session: list[float], known: list[float], mix: float) -> None:
    given = np.array(session + [0.0] * len(known), np.float64)
    of_log = np.array([0.0] * len(session) + known, np.float64)
    found = mixed(given, of_log, mix).tolist()
    parts = {"session": found[: len(session)], "long_term": found[len(session) :]}
    if sum(map(abs, session)) > 0 and sum(map(abs, known)) > 0:
        assert sum(map(abs, parts["session"])) == pytest.approx(mix)
        assert sum(map(abs, parts["long_term"])) == pytest.approx(1 - mix)
    else:
        assert parts == {"session": session, "long_term": known}


def test_the_mix_moves_between_both_ends(service: Service) -> None:
    service.store.record([event(item="i9")])
    session = [{"item": "i50"}]
    for mix, alone in ((0.0, "i9"), (1.0, "i50")):
        found = service.recommend_for(session=session, mix=mix, k=4)
        expected = service.recommend(history=[{"item": alone}], exclude=["i9", "i50"], k=4)
        assert [item.id for item in found.items] == [item.id for item in expected.items]


def test_what_was_seen_is_banned_once_however_often_it_was(service: Service, snapshot: Snapshot) -> None:
    bounce = event(item="i9", duration_s=1.0)
    twice = [event(item="i7"), event(item="i7", type="purchase", timestamp=NOW - 5)]
    # A text of the same name as an item that is only seen must not stand for it.
    service.store.record([*twice, bounce, event(item=None, text="i9", type="search"), event(item="unknown")])
    past = UserHistories(lambda: service.store, service.rules).read([ANN])[ANN]
    rows, seen = past.rows_in(View(snapshot))
    row_of = snapshot.row_of
    expected = {"i7": row_of["i7"], "i9": -1, "unknown": -1}
    assert rows.tolist() == [expected[name] for name in past.subjects]
    assert sorted(past.subjects) == ["i7", "i7", "i9", "unknown"]
    assert past.seen == ["i9"]
    assert seen.tolist() == sorted([row_of["i7"], row_of["i9"]])


def test_seen_items_stay_out_also_past_the_window(service: Service) -> None:
    rows = [row for row in range(200) if row not in (5, 6)]
    older = [event(item=f"i{row}", timestamp=NOW - 10_000 - row) for row in rows[:-4]]
    newer = [event(item="i7", timestamp=NOW - n, event_id=f"n{n}") for n in range(600)]
    # In two: more than 200 within a minute would be a bot.
    for found in (older, [msgspec.structs.replace(e, timestamp=NOW - 2 * n) for n, e in enumerate(newer)]):
        assert {r.status for r in service.store.record(found)} == {"recorded"}
    assert {item.id for item in service.recommend_for(k=100).items} == {f"i{row}" for row in rows[-4:]}
    assert len(service.recommend_for(k=100, exclude_seen=False).items) == 100
    assert service.recommend_for(k=1, exclude_seen=False).items[0].id == "i7"


def test_unknown_items_and_too_many_texts_do_not_hold_up_a_user(service: Service) -> None:
    texts = [event(item=None, text=f"text {n}", type="search", timestamp=NOW - n) for n in range(10)]
    service.store.record([event(item="nowhere"), *texts])
    found = service.recommend_for(session=[{"text": "one more"}])
    assert isinstance(found.history, list)
    assert found.unknown == ["nowhere"]
    used = [used.text for used in found.history if used.text is not None]
    assert used == ["one more", "text 0", "text 1", "text 2"]


def test_users_and_histories_share_a_batch(service: Service) -> None:
    service.store.record([event(item="i9"), event(BOB, item="i50")])
    plain = {"history": [{"text": "user_id"}], "k": 2}
    first, bad, second, third, again = service.batch(
        {"user_id": "ann", "k": 2}, {"user_id": "bob", "k": 0}, plain, {"user_id": "bob", "k": 2}, plain
    )
    assert isinstance(bad, RequestError)
    assert msgspec.json.decode(first)["history"][0]["item"] == "i9"
    assert msgspec.json.decode(third)["history"][0]["item"] == "i50"
    assert len(msgspec.json.decode(second)["items"]) == len(msgspec.json.decode(again)["items"]) == 2


def test_a_user_without_history_gets_what_is_popular_with_its_reasons(service: Service) -> None:
    others = [PSEUDONYMS.of(f"user{n}") for n in range(4)]
    service.store.record([event(user, item="i9") for user in others])
    service.store.record([event(user, item="i5") for user in others])  # hidden
    service.store.record([event(user, item="i20", type="like") for user in others[:2]])
    service.store.record([event(user, item="i30", type="dislike") for user in others])
    service.store.record([event(user, item="i40", timestamp=NOW - 2 * 86_400) for user in others])
    service.counter.count()
    assert service.recommend_for("new").strategy == "popular"
    found = service.recommend_for("new", k=5, fields=["title"], strategy="popular", options={"window": "day"})
    assert [(item.id, item.score) for item in found.items] == [("i9", 1.0), ("i20", 0.5)]
    assert found.items[0].fields == {"title": "Title 9"}
    assert [item.facts for item in found.items] == [{"users": n, "window_s": 86_400.0} for n in (4, 2)]
    week = service.recommend_for("new", strategy="popular", options={"window": "week"})
    assert sorted((item.id, item.score) for item in week.items) == [("i20", 0.5), ("i40", 1.0), ("i9", 1.0)]
    mixed = service.recommend_for("new")
    assert [item.id for item in mixed.items] == ["i9", "i40", "i20"]
    windows = [item.facts["window_s"] for item in mixed.items if isinstance(item.facts, dict)]
    assert windows == [86_400.0, 604_800.0, 86_400.0]
    fewer = service.recommend_for("new", exclude=["i9"], strategy="popular", options={"window": "day"})
    assert [item.id for item in fewer.items] == ["i20"]
    with pytest.raises(RequestError, match="empty_history"):
        service.recommend_for("new", on_cold="error")
    with pytest.raises(RequestError, match="unknown_field"):
        service.recommend_for("new", fields=["titel"])


def test_a_history_that_is_of_no_use_counts_as_none(service: Service) -> None:
    service.store.record([event(item="nowhere"), event(BOB, item="i9")])
    service.counter.count()
    assert service.recommend_for().strategy == "popular"
    assert service.recommend_for(session=[{"item": "i1"}, {"item": "i1", "weight": -1}]).strategy == "popular"
    assert service.recommend_for(session=[{"item": "i1"}]).strategy == "text"


REFUSED: list[tuple[str, Any, ErrorKind, str]] = [
    ("no json", b'{"user_id":"bob-the-secret', ErrorKind.INVALID_JSON, ""),
    ("a number", {"user_id": 7}, ErrorKind.INVALID_REQUEST, "$.user_id"),
    ("empty", {"user_id": ""}, ErrorKind.INVALID_REQUEST, "empty"),
    ("NUL", {"user_id": "bob-the-secret\0"}, ErrorKind.INVALID_REQUEST, "NUL"),
    ("long", {"user_id": "bob-the-secret" * 800}, ErrorKind.INVALID_REQUEST, "256"),
    ("not NFC", {"user_id": "bob-the-secret e\u0301"}, ErrorKind.INVALID_REQUEST, "NFC"),
    ("history", {"user_id": "bob-the-secret", "history": [{"item": "i9"}]}, ErrorKind.INVALID_REQUEST, "user_id"),
    ("unknown", {"user_id": "bob-the-secret", "histori": []}, ErrorKind.INVALID_REQUEST, "not known"),
    ("mix", {"user_id": "bob-the-secret", "mix": 1.5}, ErrorKind.INVALID_REQUEST, "$.mix"),
    ("session", {"user_id": "bob-the-secret", "session": [{}]}, ErrorKind.INVALID_REQUEST, "$.session[0]"),
    ("blank", {"user_id": "bob-the-secret", "session": [{"text": " "}]}, ErrorKind.INVALID_REQUEST, "blank"),
    ("exclude", {"user_id": "bob-the-secret", "exclude": ["a"] * 21}, ErrorKind.TOO_LARGE, "exclude allows 20"),
]


@pytest.mark.parametrize(("request_", "kind", "named"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_bad_request_fails_alone_and_does_not_name_its_user(
    snapshot: Snapshot, tmp_path: Path, request_: Any, kind: ErrorKind, named: str
) -> None:
    service = Service(snapshot, tmp_path / "store.db")
    good = {"user_id": "ann", "session": [{"item": "i9"}]}
    before, refused, after = service.batch(good, request_, good)
    assert isinstance(refused, RequestError)
    assert refused.kind is kind
    assert named in refused.text
    assert "bob-the-secret" not in str(refused)
    assert isinstance(before, bytes)
    assert isinstance(after, bytes)
    service.store.close()


def test_a_store_that_is_away_fails_only_those_who_need_it(snapshot: Snapshot, tmp_path: Path) -> None:
    service = Service(snapshot, tmp_path / "store.db")
    service.store.record([event()])
    with service.store.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE interactions")
    user, plain = service.batch({"user_id": "ann"}, {"history": [{"item": "i9"}]})
    assert isinstance(user, RequestError)
    assert user.kind is ErrorKind.UNAVAILABLE
    assert isinstance(plain, bytes)
    service.store.close()


def test_a_user_is_answered_by_the_options_of_a_variant_and_told_which(snapshot: Snapshot, tmp_path: Path) -> None:
    running = [Experiment("length", [Variant("short", {"k": 2}), Variant("long", {"k": 6})])]
    service = Service(snapshot, tmp_path / "store.db", experiments=lambda: running)
    service.store.record([event(item="i9"), event(BOB, item="i50")])
    for forced, size in (("short", 2), ("long", 6)):
        found = service.recommend_for(k=4, variants={"length": forced})
        assert isinstance(found.experiments, list)
        assert [(of.experiment, of.variant, of.forced) for of in found.experiments] == [("length", forced, True)]
        assert len(found.items) == size
    # A user of whom nothing is known is told as well.
    found = service.recommend_for("new", strategy="blend")
    assert found.strategy == "blend"
    assert found.history is msgspec.UNSET
    assert isinstance(found.experiments, list)
    assert [of.experiment for of in found.experiments] == ["length"]
    walk = service.recommend(history=[{"item": "i9"}], walk={}).walk
    assert walk is not msgspec.UNSET
    assert walk.served.experiments == {"length": version_of(running[0])}
    assert service.logged == [(ANN, "text"), (ANN, "text"), (PSEUDONYMS.of("new"), "blend")]
    with pytest.raises(RequestError, match="length: short, long"):
        service.recommend_for(variants={"length": "bob-the-secret"})
    service.store.close()


def test_experiments_are_started_and_ended_without_a_restart(
    snapshot: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    length = Experiment("length", [Variant("short", {"k": 2}), Variant("shorter", {"k": 1})])
    wrong = Experiment("wrong", [Variant("a"), Variant("b", {"strategy": "none-of-these"})])
    running: list[list[Experiment]] = [[]]
    service = Service(snapshot, tmp_path / "store.db", experiments=lambda: running[-1])
    service.store.record([event(item="i9")])
    assert len(service.recommend_for(k=4).items) == 4
    running.append([length])
    assert len(service.recommend_for(k=4).items) < 4
    assert service.handler.experiments == [length]
    # What cannot be served leaves what was.
    running.append([length, wrong])
    assert len(service.recommend_for(k=4).items) < 4
    assert service.handler.experiments == [length]
    assert "the experiments stay as they were" in caplog.text
    running.append([])
    assert len(service.recommend_for(k=4).items) == 4
    service.store.close()


@pytest.mark.parametrize("is_ordinal", [True, False])
def test_the_order_of_rows_is_no_recency_in_any_strategy(service: Service, is_ordinal: bool) -> None:
    start = 0.0 if is_ordinal else NOW - 1000 * 86_400.0
    day = 1.0 if is_ordinal else 86_400.0
    rows = [(f"u{n % 7}", f"i{20 + n % 5}") for n in range(350)] + [("ann", "i20"), ("ann", "i21"), ("ann", "i22")]
    log = [event(PSEUDONYMS.of(user), item, timestamp=start + day * (n + 1)) for n, (user, item) in enumerate(rows)]
    service.store.record(log)
    service.counter.count()
    ask: dict[str, Any] = {"strategy": "item_knn", "exclude_seen": False, "k": 5}
    short, long = (service.recommend_for(**ask, options={"half_life": of}) for of in (0.5, 1e6))
    scores = [{item.id: round(item.score, 6) for item in slate.items} for slate in (short, long)]
    assert (scores[0] == scores[1]) == is_ordinal
    recent = service.recommend_for("new", strategy="popular", options={"by": "recent", "window": "all"}, k=5)
    own = {item: sum(name == item for _, name in rows) for _, item in rows}
    counts = {item.id: round(float(np.expm1(item.score)), 3) for item in recent.items}
    assert (counts == own) == is_ordinal


def test_interactions_whose_item_the_catalogue_has_are_counted(service: Service) -> None:
    assert service.handler.named_interactions() == (0, 0)
    service.store.record([event(item=f"i{row}", timestamp=NOW - row) for row in (7, 8, 9)])
    service.store.record([event(item="elsewhere", timestamp=NOW - 5), event(item="elsewhere", timestamp=NOW - 4)])
    service.recommend_for("new", strategy="popular")
    assert service.handler.named_interactions() == (5, 3)
