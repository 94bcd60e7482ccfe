"""Rotation of the key while servers record, recommend and log: nothing acknowledged is lost, variants stay."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import sqlalchemy as sa

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.config.experiments import Experiment, Variant
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.key_rotation import rotate
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers, users
from support.answers import by_user, log_of, plain
from support.events import event
from support.rotation import NAMES, of, opened
from support.small_snapshot import small_snapshot
from support.user_service import Service
from support.users import Desk, act

LONG_S = 60


def test_a_running_server_refuses_one_batch_and_goes_on(store_place: Path | str, key_file: Path) -> None:
    desk = Desk(store_place, read=lambda: read_pseudonyms(key_file))
    assert desk.ask(op="record", interactions=[act()])["results"][0]["status"] == "recorded"
    with InteractionStore(store_place) as other:
        rotate(other, key_file)
    for request in ({"op": "record", "interactions": [act(item="i2")]}, {"op": "history", "user_id": "ann"}):
        (refused,) = desk.batch(request)
        if request["op"] == "record":
            assert isinstance(refused, RequestError)
            assert (refused.kind, "rotated" in refused.text) == (ErrorKind.UNAVAILABLE, True)
        else:
            assert refused["read"] == 1
    assert [row["status"] for row in desk.ask(op="record", interactions=[act(), act(item="i2")])["results"]] == [
        "duplicate",
        "recorded",
    ]
    assert desk.store.stats().users == 1
    desk.close()


def test_what_is_acknowledged_during_rotations_is_there_once(tmp_path: Path, key_file: Path) -> None:
    where = tmp_path / "i.db"
    desks = [Desk(where, read=lambda: read_pseudonyms(key_file)) for _ in range(2)]
    stop = threading.Event()

    def work(number: int) -> list[str]:
        done: list[str] = []
        n = 0
        while not stop.is_set():
            n += 1
            request = {"op": "record", "interactions": [act(f"user {n % 5}", item=f"{number}-{n}")]}
            (answer,) = desks[number].batch(request)
            if isinstance(answer, RequestError):
                assert answer.kind is ErrorKind.UNAVAILABLE
            else:
                assert answer["results"][0]["status"] == "recorded"
                done.append(f"{number}-{n}")
        return done

    with ThreadPoolExecutor(2) as pool, InteractionStore(where) as other:
        working = [pool.submit(work, number) for number in range(2)]
        try:
            for _ in range(5):
                revision = other.revision
                while other.revision < revision + 4:
                    assert not any(found.done() for found in working)
                rotate(other, key_file)
        finally:
            stop.set()
        acknowledged = [item for found in working for item in found.result(LONG_S)]
    with opened(where, key_file) as store:
        assert store.stats().users == 5
        found = [row["item"] for n in range(5) for row in store.export(of(store, f"user {n}"))["interactions"]]
        assert sorted(found) == sorted(acknowledged)
    for desk in desks:
        desk.close()


def test_recommendations_go_on_and_variants_stay(tmp_path: Path, store_place: Path | str, key_file: Path) -> None:
    split = [Experiment("mix", [Variant("a"), Variant("b"), Variant("c")])]
    snapshot = small_snapshot(tmp_path / "s")
    service = Service(snapshot, store_place, experiments=lambda: split, read=lambda: read_pseudonyms(key_file))
    keys = service.store.keys
    assert keys is not None
    service.store.record([event(keys.pseudonyms.of(name), item="i9") for name in NAMES])

    def variants() -> list[str]:
        found = [service.recommend_for(name) for name in NAMES]
        assert {one.strategy for one in found} == {"text"}
        assert isinstance(found[0].experiments, list)
        return [one.experiments[0].variant for one in found if isinstance(one.experiments, list)]

    before, old = variants(), keys.pseudonyms
    # The key is random: that all names fall to one variant has a chance of 3 ** (1 - len(NAMES)).
    assert len(set(before)) > 1
    rotate(service.store, key_file)
    (refused,) = service.batch({"user_id": NAMES[0]})
    assert isinstance(refused, RequestError)
    assert refused.kind is ErrorKind.UNAVAILABLE
    assert variants() == before
    assert keys.pseudonyms.rotations == 1
    kept = service.handler._histories._cache
    assert set(kept) == {keys.pseudonyms.of(name) for name in NAMES}
    assert not set(kept) & {old.of(name) for name in NAMES}
    service.store.close()


def test_answers_that_wait_for_the_log_during_a_rotation_are_lost_and_counted(
    store_place: Path | str, key_file: Path
) -> None:
    with opened(store_place, key_file) as store:
        assert store.keys is not None
        ring = store.keys.pseudonyms
        log = log_of(store, plain=1.0)
        log.offer(by_user("r1"), ring.of("user 1"), ring.fingerprint)
        rotate(store, key_file)
        log.flush()
        assert (log.counts.logged, log.counts.failed) == (0, 1)
        log.offer(by_user("r2"), ring.of("user 1"), ring.fingerprint)
        log.offer(plain("r3"), None)
        assert store.keys.follow(lambda: store.database)
        new = store.keys.pseudonyms
        log.offer(by_user("r4"), new.of("user 1"), new.fingerprint)
        log.flush()
        log.close()
        assert (log.counts.logged, log.counts.failed) == (2, 2)
        with store.database.reading() as connection:
            by = sa.select(answers.c.recommendation_id, users.c.pseudonym)
            rows = connection.execute(by.outerjoin_from(answers, users, answers.c.user == users.c.number)).all()
        assert {tuple(row) for row in rows} == {("r3", None), ("r4", new.of("user 1"))}
