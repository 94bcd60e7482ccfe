"""What leaves the interaction store: what is too much or too old, and users who are erased."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.history.user_histories import UserHistories
from recserve_server_ext.interactions.store import InteractionStore
from support.events import ANN, BOB, NOW, PSEUDONYMS, Opener, event, held, seen, statuses


def test_what_a_user_saw_outlives_the_interactions(opened: Opener) -> None:
    store = opened(per_user=2, slack=3)
    kinds = [("old", "view", 50), ("old", "purchase", 40), ("no", "dislike", 30), ("a", "view", 20), ("b", "click", 10)]
    for item, kind, age in kinds:
        store.record([event(item=item, type=kind, timestamp=NOW - age)])
    store.record([event(item="a", timestamp=NOW - 99)])
    store.expire()
    assert [row["item"] for row in held(store)] == ["a", "b"]
    assert seen(store, ANN) == {
        "old": {"seen": NOW - 50, "bought": NOW - 40},
        "no": {"rejected": NOW - 30},
        "a": {"seen": NOW - 20},
        "b": {"seen": NOW - 10},
    }
    assert seen(store, BOB) == {}


def test_rows_of_one_user_stay_bounded_without_expiry(opened: Opener) -> None:
    store = opened(per_user=10, seen_per_user=5, slack=20)
    for number in range(100):
        store.record([event(item=f"i{number}", timestamp=NOW - 100 + number)])
        assert len(held(store)) <= 10 + 20
        assert len(seen(store, ANN)) <= 5 + 20
    assert held(store)[-1]["item"] == "i99"
    store.expire()
    assert [row["item"] for row in held(store)] == [f"i{number}" for number in range(90, 100)]
    assert sorted(seen(store, ANN)) == [f"i{number}" for number in range(95, 100)]


def test_expiry_by_age(opened: Opener) -> None:
    store = opened(max_age_s=100, seen_max_age_s=200, tombstone_s=50)
    ages = (50, 150, 250)
    store.record([event(item=f"a{age}", timestamp=NOW - age) for age in ages])
    store.record([event(BOB, timestamp=NOW - 500)])
    store.erase(PSEUDONYMS.of("gone"))
    revision = store.revision
    assert store.expire() == 2 + 1 + 1 + 1
    assert ([row["item"] for row in held(store)], sorted(seen(store, ANN))) == (["a50"], ["a150", "a50"])
    assert (store.stats().users, store.stats().erased, store.revision) == (1, 1, revision + 1)
    assert store.expire(NOW + 49) == 0
    assert store.stats().erased == 1
    store.expire(NOW + 51)
    assert store.stats().erased == 0


def test_a_user_of_whom_all_has_expired_has_an_empty_past(store_place: Path | str) -> None:
    limits = InteractionLimits(max_age_s=100, seen_max_age_s=100)
    with InteractionStore(store_place, limits, create=True, clock=lambda: NOW) as store:
        store.record([event(timestamp=NOW - 50)])
        store.expire(NOW + 1000)
        assert store.window([ANN]).offsets.tolist() == [0, 0]
        assert store.window([BOB, ANN]).offsets.tolist() == [0, 0, 0]
        histories = UserHistories(lambda: store, HistoryRules())
        assert histories.read([ANN])[ANN].size == 0


def test_erasing_a_user_refuses_what_is_older(opened: Opener) -> None:
    store = opened(tombstone_s=1000)
    ahead = event(item="ahead", timestamp=NOW + 100)
    store.record([event(), ahead, event(BOB)])
    erased = store.erase(ANN)
    assert (erased.interactions, erased.refused_until) == (2, NOW + 1000)
    assert store.export(ANN) == {"user": ANN, "interactions": [], "seen": [], "answers": []}
    assert len(held(store, BOB)) == 1
    answers = store.record([event(), ahead, event(item="new", timestamp=NOW + 200), event(BOB, "i9")])
    assert statuses(answers) == ["erased", "erased", "recorded", "recorded"]
    assert statuses(opened(NOW + 1001).record([event()])) == ["recorded"]


def test_erasing_twice_or_an_unknown_user_does_no_harm(store: InteractionStore) -> None:
    assert [store.erase(ANN).interactions, store.erase(ANN).interactions] == [0, 0]
    with pytest.raises(InteractionError, match="no pseudonym"):
        store.erase("ann")


def test_no_file_holds_an_erased_user(tmp_path: Path) -> None:
    path = tmp_path / "interactions.db"
    others = [PSEUDONYMS.of(f"other {number}") for number in range(2000)]
    marker = "a very private search 7d1f"
    with InteractionStore(path, create=True, clock=lambda: NOW) as store:
        for start in range(0, len(others), 100):
            store.record([event(user, f"i{n}") for user in others[start : start + 100] for n in range(5)])
            store.record([event(item=None, text=f"{marker} {start}"), event(item=f"private-item-{start}")])
        files = [path, path.with_name("interactions.db-wal")]
        before = b"".join(file.read_bytes() for file in files)
        assert all(text.encode() in before for text in (ANN, marker, "private-item-"))
        store.erase(ANN)
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            assert all(text.encode() not in content for text in (ANN, marker, "private-item-")), file
        assert (store.stats().users, store.stats().interactions) == (2000, 10_000)
        with store.database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


def test_an_erasure_that_a_reader_keeps_from_the_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.0)
    with InteractionStore(tmp_path / "i.db", create=True, clock=lambda: NOW) as store:
        store.record([event(item="a"), event(item="b")])
        with store.all() as rows:
            next(rows)
            with pytest.raises(InteractionError, match="a reader keeps the old log"):
                store.erase(ANN)
        assert held(store) == []
        store.erase(ANN)
        assert ANN.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
