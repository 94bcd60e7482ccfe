"""The log of answers, on SQLite and PostgreSQL: what a line holds, what is lost and counted, erased and trimmed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from recserve_client.contract import AssignedVariant, RequestError
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.config.server import ImpressionLogSettings
from recserve_server_ext.interactions.impressions.log import ImpressionLog, LogCounts
from recserve_server_ext.interactions.impressions.rows import Line, row_of
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers, experiments, users
from support.answers import by_user, log_of, plain
from support.events import ANN, BOB, NOW, event
from support.small_snapshot import small_snapshot
from support.user_service import Service

MIX = Experiment("mix", [Variant("control"), Variant("session", {"mix": 0.9}, 2.0)])
SESSION = AssignedVariant("mix", "session", version_of(MIX))


@pytest.fixture
def store(store_place: Path | str) -> Iterator[InteractionStore]:
    limits = InteractionLimits(answers=10, answers_max_age_s=100)
    with InteractionStore(store_place, limits, create=True, clock=lambda: NOW) as store:
        yield store


def rows(store: InteractionStore) -> list[dict[str, Any]]:
    with store.database.reading() as connection:
        query = sa.select(answers, users.c.pseudonym).outerjoin_from(answers, users, answers.c.user == users.c.number)
        found = [dict(row) for row in connection.execute(query.order_by(answers.c.number)).mappings()]
    for row in found:
        assert (row.pop("user") is None) == (row["pseudonym"] is None)
    return found


def test_a_line_says_what_was_recommended_to_whom_and_how(store: InteractionStore) -> None:
    log = log_of(store, served=[MIX], plain=1.0)
    log.offer(by_user("r1", ["i1", "i2", "i3"], SESSION), ANN)
    log.offer(plain("r2"), None)
    log.offer(by_user("r3", [], strategy="popular"), BOB)
    log.offer(by_user("r4", ["i1"], msgspec.structs.replace(SESSION, forced=True)), ANN)
    log.flush()
    log.close()
    first, second, third, fourth = rows(store)
    assert first | {"number": 0} == {
        "number": 0,
        "recommendation_id": "r1",
        "pseudonym": ANN,
        "time_us": NOW * 1e6,
        "strategy": "text",
        "variants": f'{{"mix@{SESSION.version}":"session"}}',
        "forced": False,
        "sampling": 1.0,
        "size": 3,
        "recommended": '["i1","i2","i3"]',
        "propensities": None,
        "revision": 7,
        "encoder": "encoder-1",
        "rules": "rules-1",
    }
    assert (second["pseudonym"], second["rules"], second["variants"], second["recommended"]) == (
        None, None, "{}", '["i1","i2"]',
    )  # fmt: skip
    assert (third["strategy"], third["size"], third["forced"], fourth["forced"]) == ("popular", 0, False, True)
    with store.database.reading() as connection:
        (served,) = connection.execute(sa.select(experiments)).mappings()
    assert (served["name"], served["version"], served["weights"]) == (
        "mix", SESSION.version, '{"control":1.0,"session":2.0}',
    )  # fmt: skip
    assert log.counts == LogCounts(4, 0, 0)


def test_propensities_and_the_strategy_are_kept() -> None:
    answer = by_user("r1", ["i1", "i2"], strategy="blend")
    answer.items[1] = msgspec.structs.replace(answer.items[1], propensity=0.05)
    row = row_of(Line.of(answer, ANN, 1, 1.0, ""))
    assert (row["strategy"], row["propensities"]) == ("blend", "[1.0,0.05]")


def test_a_waiting_answer_holds_no_contributions(store: InteractionStore) -> None:
    """Ten items with 1,000 contributions each are 300 KB, and thousands of answers may wait."""
    answer = by_user("r1", ["i1"])
    contributions = [float(number) for number in range(1000)]
    answer.items[0] = msgspec.structs.replace(answer.items[0], contributions=contributions)
    log = log_of(store)
    before = sys.getrefcount(contributions)
    log.offer(answer, ANN)
    del answer
    assert (log.waiting, sys.getrefcount(contributions)) == (1, before - 1)
    log.close()


def test_a_sample_is_drawn_and_its_share_written_down(store: InteractionStore) -> None:
    log = log_of(store, by_user=0.25, plain=0.0, queue=10_000)
    for n in range(2000):
        log.offer(by_user(f"u{n}"), ANN)
        log.offer(plain(f"p{n}"), None)
    log.flush()
    log.close()
    assert log.counts.logged == pytest.approx(500, abs=80)  # four standard errors
    assert log.counts.full == 0
    assert {(row["pseudonym"], row["sampling"]) for row in rows(store)} == {(ANN, 0.25)}


@pytest.mark.parametrize("bound", [{"queue": 3}, {"queue_items": 6}])
def test_what_finds_no_room_is_counted_and_holds_up_nobody(tmp_path: Path, bound: Any) -> None:
    with InteractionStore(tmp_path / "i.db", create=True, clock=lambda: NOW) as store:
        log = log_of(store, plain=1.0, **bound)
        with store.database.writing():  # nothing else can write meanwhile
            for n in range(5):
                log.offer(plain(f"r{n}"), None)
        assert log.counts == LogCounts(0, 2, 0)
        log.flush()
        log.offer(plain("r6"), None)
        log.close()
        assert [row["recommendation_id"] for row in rows(store)] == ["r0", "r1", "r2", "r6"]


def test_a_store_that_cannot_be_written_loses_lines_and_counts_them(store: InteractionStore) -> None:
    log = log_of(store)
    with store.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE answers RENAME TO away")
    log.offer(by_user("r1"), ANN)
    log.flush()
    assert log.counts == LogCounts(0, 0, 1)
    with store.database.writing() as connection:
        connection.exec_driver_sql("ALTER TABLE away RENAME TO answers")
    log.offer(by_user("r2"), ANN)
    log.close()
    assert [row["recommendation_id"] for row in rows(store)] == ["r2"]
    assert log.counts == LogCounts(1, 0, 1)


def test_lines_are_written_in_their_order_however_many(store_place: Path | str) -> None:
    with InteractionStore(store_place, create=True, clock=lambda: NOW) as store:
        log = log_of(store, plain=1.0)
        for n in range(1003):
            log.offer(by_user(f"r{n}") if n % 3 else plain(f"r{n}"), ANN if n % 3 else None)
        store.erase(BOB)
        log.close()
        assert [row["recommendation_id"] for row in rows(store)] == [f"r{n}" for n in range(1003)]
        assert log.counts == LogCounts(1003, 0, 0)


def test_what_waits_while_its_user_is_erased_is_not_written(store: InteractionStore) -> None:
    log = log_of(store, now=NOW - 1)
    log.offer(by_user("before"), ANN)
    log.flush()
    log.offer(by_user("waiting"), ANN)
    log.offer(by_user("other"), BOB)
    assert store.erase(ANN).answers == 1
    log.close()
    later = log_of(store, now=NOW + 1)
    later.offer(by_user("after"), ANN)
    later.close()
    assert [row["recommendation_id"] for row in rows(store)] == ["other", "after"]


def test_answers_are_among_what_is_exported_and_erased(store: InteractionStore) -> None:
    log = log_of(store, served=[MIX])
    log.offer(by_user("r1", ["i1", "i2"], SESSION), ANN)
    log.offer(by_user("r2"), BOB)
    log.close()
    (held,) = store.export(ANN)["answers"]
    assert held == {
        "recommendation_id": "r1",
        "timestamp": NOW,
        "items": ["i1", "i2"],
        "strategy": "text",
        "sampling": 1.0,
        "revision": 7,
        "encoder": "encoder-1",
        "rules": "rules-1",
        "experiments": {f"mix@{SESSION.version}": "session"},
    }
    assert (store.erase(ANN).answers, store.export(ANN)["answers"]) == (1, [])
    assert len(store.export(BOB)["answers"]) == 1


def test_no_file_holds_the_answers_of_an_erased_user(tmp_path: Path) -> None:
    path = tmp_path / "interactions.db"
    with InteractionStore(path, create=True, clock=lambda: NOW) as store:
        log = log_of(store, now=NOW - 1)
        for n in range(500):
            log.offer(by_user(f"answer-of-ann-{n}", [f"item-of-ann-{n}"]), ANN)
            log.offer(by_user(f"answer-of-bob-{n}"), BOB)
        log.flush()
        needles = (ANN.encode(), b"answer-of-ann", b"item-of-ann")
        files = [path, path.with_name("interactions.db-wal")]
        before = b"".join(file.read_bytes() for file in files)
        assert all(needle in before for needle in needles)
        log.offer(by_user("answer-of-ann-waiting", ["item-of-ann"]), ANN)
        store.erase(ANN)
        log.close()
        for file in tmp_path.iterdir():
            content = file.read_bytes()
            assert not [needle for needle in needles if needle in content], file


def test_answers_past_the_limits_go_oldest_first(store: InteractionStore) -> None:
    for now, names in ((NOW - 200, "ab"), (NOW - 50, "cdef"), (NOW, "ghijklmn")):
        log = log_of(store, now=now)
        for name in names:
            log.offer(by_user(name), ANN)
        log.close()
    assert store.trim_answers(round((NOW - 60) * 1e6)) == 4  # of 14, 10 are kept; a and b are too old as well
    assert store.expire(NOW + 60) == 2  # e and f are too old now
    assert "".join(row["recommendation_id"] for row in rows(store)) == "ghijklmn"
    assert store.trim_answers(round(NOW * 1e6)) == 0


def test_a_user_is_held_as_long_as_anything_else_is(store: InteractionStore) -> None:
    def known() -> set[str]:
        with store.database.reading() as connection:
            return set(connection.execute(sa.select(users.c.pseudonym)).scalars())

    store.record([event(BOB)])
    log = log_of(store, plain=1.0)
    log.offer(by_user("r1"), ANN)
    log.offer(by_user("r2"), BOB)
    log.offer(plain("r3"), None)
    log.close()
    assert (known(), store.sample_users(10, 0)) == ({ANN, BOB}, [BOB])
    store.expire(NOW + 50)
    assert known() == {ANN, BOB}
    assert store.trim_answers(round((NOW + 200) * 1e6)) == 3
    assert known() == {BOB}
    store.record([event(ANN)])
    assert (len(store.export(ANN)["interactions"]), known()) == (1, {ANN, BOB})


def test_the_log_trims_while_it_writes(store: InteractionStore) -> None:
    log = log_of(store)
    for n in range(30):
        log.offer(by_user(f"r{n}"), ANN)
    log.flush()
    log.flush()
    log.close()
    assert [row["recommendation_id"] for row in rows(store)] == [f"r{n}" for n in range(20, 30)]


def test_the_thread_writes_by_itself_and_shows_its_counts(tmp_path: Path) -> None:
    shown: list[LogCounts] = []
    written = threading.Event()

    def show(counts: LogCounts) -> None:
        shown.append(counts)
        if counts.logged:
            written.set()

    with InteractionStore(tmp_path / "i.db", create=True) as store:
        log = ImpressionLog(lambda: store, ImpressionLogSettings(every_s=0.01), show=show)
        log.offer(by_user("r1"), ANN)
        assert written.wait(30)
        log.close()
        assert [row["recommendation_id"] for row in rows(store)] == ["r1"]


def test_answers_are_logged_with_their_users_and_refusals_are_not(tmp_path: Path) -> None:
    running = [MIX]
    service = Service(small_snapshot(tmp_path / "snapshots"), tmp_path / "store.db", experiments=lambda: running)
    service.store.record([event(item="i9"), event(BOB, item="i8")])
    requests: list[dict[str, Any]] = [
        {"user_id": "ann", "strategy": "blend"},
        {"user_id": "bob", "exclude": ["x"] * 21},
        {"history": [{"item": "i3"}]},
        {"user_id": "bob", "on_cold": "error"},
        {"user_id": "nobody", "on_cold": "error"},
    ]
    answers = service.batch(*requests)
    assert [isinstance(answer, RequestError) for answer in answers] == [False, True, False, False, True]
    assert service.logged == [(ANN, "blend"), (None, "text"), (BOB, "text")]
    service.store.close()


def test_a_line_does_not_change_the_revision(store: InteractionStore) -> None:
    store.record([event()])
    revision = store.revision
    log = log_of(store)
    log.offer(by_user("r1"), ANN)
    log.close()
    assert (len(rows(store)), store.revision) == (1, revision)
