"""What our metrics say, and that no value is handed to Triton that would end it."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from msgspec import structs

from recserve_server_ext.batching.admission import NO_DEADLINE, Admission
from recserve_server_ext.batching.revision_wait import WaitCounts
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.index.matrix import MatrixManifest
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.impressions.log import LogCounts
from recserve_server_ext.interactions.store import InteractionStore
from support.answers import by_user, log_of, plain
from support.edited import ENCODER, Edited
from support.events import ANN, NOW, event
from support.fake_metrics import FakeMetrics, fake_metrics
from support.lock import locked
from support.queued import unanswered
from support.users import Desk, act

LONG_S = 60.0
READ = "recserve_catalogue_store_read_timestamp_seconds"
LAG = "recserve_catalogue_revision_lag"


@pytest.fixture
def fake() -> Iterator[FakeMetrics]:
    with fake_metrics() as fake:
        yield fake


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "store.db")
    yield edited
    edited.store.close()


def live_over(edited: Edited) -> LiveCatalogue:
    return LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)


class Queues(NamedTuple):
    """As `Batcher` has them."""

    admissions: dict[str, Admission]
    held: dict[str, int]

    def waiting(self, model: str) -> int:
        return self.held[model]


def test_each_model_says_what_waits_for_the_encoder(fake: FakeMetrics) -> None:
    from recserve_server_ext.triton.metrics.models import AdmissionMetrics

    queues = {model: Queues({"encoder": Admission("encoder")}, {"encoder": 0}) for model in ("recommend", "items")}
    of = {model: AdmissionMetrics(model, queues[model], every_s=LONG_S) for model in queues}
    queues["items"].held["encoder"] = 3
    for metrics in of.values():
        metrics.sample()
        metrics.close()
    shown = {model: fake.values[f'recserve_encoder_waiting_requests{{model="{model}"}}'] for model in of}
    assert shown == {"recommend": 0.0, "items": 3.0}


def test_the_catalogue_that_is_served_is_shown(fake: FakeMetrics, edited: Edited) -> None:
    from recserve_server_ext.triton.metrics.catalogue import ViewMetrics

    live = live_over(edited)
    edited.change("upsert", [{"id": "new", "texts": {"title": "new"}}])
    edited.change("delete", [{"id": "i3"}])
    ViewMetrics().show(live.view())
    names = ("revision", "snapshot_revision", "snapshot_items", "delta_items", "unavailable_items")
    assert [fake.values[f"recserve_catalogue_{name}"] for name in names] == [3, 1, 30, 1, 1]
    made = fake.values["recserve_catalogue_snapshot_created_timestamp_seconds"]
    assert fake.values['recserve_space_created_timestamp_seconds{space="text"}'] == made > 0


def test_spaces_are_shown_with_the_moment_they_were_made(fake: FakeMetrics, edited: Edited) -> None:
    from recserve_server_ext.triton.metrics.catalogue import ViewMetrics

    metrics, view = ViewMetrics(), live_over(edited).view()
    manifest = view.snapshot.manifest
    alive = len(fake.alive)
    for version in ("20261129T010203000004", "20261130T010203000004"):
        trained = structs.replace(manifest, matrices={"item_knn": MatrixManifest(entries=1, version=version)})
        metrics.show(replace(view, snapshot=replace(view.snapshot, manifest=trained)))
        moment = fake.values['recserve_space_created_timestamp_seconds{space="item_knn"}']
        assert datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dT%H%M%S%f") == version
    of_matrix = len(fake.alive)
    metrics.show(view)
    assert len(fake.alive) < of_matrix
    assert len(fake.alive) > alive


def test_counters_of_the_log_and_of_the_waiting_room_never_decrease(fake: FakeMetrics) -> None:
    from recserve_server_ext.triton.metrics.models import LogMetrics, WaitMetrics

    log, room = LogMetrics(), WaitMetrics()
    for counts in (LogCounts(5, 1, 0), LogCounts(4, 1, 2), LogCounts(6, 1, 2)):
        log.show(counts)
    assert fake.values["recserve_answers_logged_total"] == 7
    assert fake.values['recserve_answers_lost_total{reason="failed"}'] == 2
    for waits in (WaitCounts(2, 2), WaitCounts(1, 2, expired=1), WaitCounts(0, 1, expired=1, cancelled=1)):
        room.show(waits)
    assert fake.values["recserve_revision_waiting_requests"] == 0
    assert fake.values["recserve_revision_waited_total"] == 2
    assert fake.values['recserve_revision_refused_total{reason="cancelled"}'] == 1


def test_what_cannot_be_read_or_is_no_number_leaves_its_gauge_alone(
    fake: FakeMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    from recserve_server_ext.triton.metrics.models import Gauge, SampledMetrics

    found: dict[str, Any] = {"a": 1, "b": 2, "c": 3}

    def read(name: str) -> float:
        if isinstance(found[name], Exception):
            raise found[name]
        return float(found[name])

    sampled = SampledMetrics([Gauge(name, "one", partial(read, name)) for name in found], every_s=1e6)
    assert fake.values == {"a": 1, "b": 2, "c": 3}
    with caplog.at_level(logging.ERROR):
        found |= {"a": CatalogueError("away"), "b": ValueError("a bug"), "c": 4}
        sampled.sample()
        sampled.sample()
    assert fake.values == {"a": 1, "b": 2, "c": 4}
    assert [record.message for record in caplog.records] == ["the metric b cannot be read"]
    found |= {"a": math.nan, "b": -1, "c": math.inf}
    sampled.sample()
    assert fake.values == {"a": 1, "b": -1, "c": 4}
    sampled.close()


def test_the_thread_looks_again_and_ends(fake: FakeMetrics) -> None:
    from recserve_server_ext.triton.metrics.models import Gauge, SampledMetrics

    looked: list[int] = []
    thrice = threading.Event()

    def read() -> float:
        looked.append(threading.get_ident())
        if len(looked) >= 3:
            thrice.set()
        return len(looked)

    sampled = SampledMetrics([Gauge("a", "one", read)], every_s=0.001)
    assert thrice.wait(LONG_S)
    sampled.close()
    assert fake.values["a"] == len(looked) == fake.set_calls["a"]
    assert looked[0] == threading.get_ident() != looked[1]


def test_the_lag_is_what_was_committed_and_is_not_served(fake: FakeMetrics, edited: Edited) -> None:
    from recserve_server_ext.triton.metrics.models import recommend_metrics

    live, now = live_over(edited), [NOW]
    with InteractionStore(edited.snapshots / "i.db", create=True) as store:
        log = log_of(store, plain=1.0)
        sampled = recommend_metrics(live, log, lambda: (10, 7), lambda: NOW - 60, clock=lambda: now[0])
        assert (fake.values[LAG], fake.values[READ], fake.values["recserve_answers_waiting"]) == (0, NOW, 0)
        assert fake.values["recserve_milvus_waiting_deletes"] == 0
        named = [fake.values[f"recserve_log_{name}"] for name in ("interactions", "known_interactions")]
        assert named == [10, 7]
        assert fake.values["recserve_log_counted_timestamp_seconds"] == NOW - 60
        for n in range(3):
            edited.change("upsert", [{"id": f"n{n}", "texts": {"title": f"new {n}"}}])
            log.offer(plain(f"r{n}"), None)
        sampled.sample()
        assert (fake.values[LAG], fake.values["recserve_answers_waiting"]) == (3, 3)
        live.view()
        log.flush()
        sampled.sample()
        assert (fake.values[LAG], fake.values["recserve_answers_waiting"]) == (0, 0)
        edited.change("delete", [{"id": "n0"}])
        sampled.sample()
        live._open = away
        now[0] += 30
        sampled.sample()
        assert (fake.values[LAG], fake.values[READ]) == (1, NOW)
        live._open = lambda: edited.store
        sampled.sample()
        assert (fake.values[LAG], fake.values[READ]) == (1, NOW + 30)
        sampled.close()
        log.close()


def test_clicks_of_the_last_hour_are_shown_by_strategy(fake: FakeMetrics, tmp_path: Path) -> None:
    from recserve_server_ext.triton.metrics.models import OutcomeMetrics

    now = [NOW]
    with InteractionStore(tmp_path / "i.db", InteractionLimits(), create=True, clock=lambda: now[0]) as store:
        opened: list[Any] = [lambda: store]
        sampled = OutcomeMetrics(lambda: opened[0](), every_s=1e6, clock=lambda: now[0])
        assert fake.values == {}
        log = log_of(store)
        log.offer(by_user("r1", ["i1", "i2"], strategy="ease"), ANN)
        log.flush()
        log.close()
        store.record([event(item="i1", recommendation_id="r1", timestamp=NOW)])
        of = 'recserve_recent_{}{{strategy="ease"}}'
        names = [of.format("impressions"), of.format("clicks")]
        sampled.sample()
        assert [fake.values[name] for name in names] == [2, 1]
        opened[0] = away
        now[0] += 4000
        sampled.sample()
        assert [fake.values[name] for name in names] == [2, 1]
        opened[0] = lambda: store
        sampled.sample()
        assert [fake.values[name] for name in names] == [0, 0]
        sampled.close()


def away() -> Any:
    raise CatalogueError("the store is away")


def test_a_catalogue_that_has_no_store_lags_behind_nothing(fake: FakeMetrics, edited: Edited) -> None:
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), None)
    edited.change("delete", [{"id": "i3"}])
    assert live.lag() == 0


def test_interactions_wait_until_they_are_committed(fake: FakeMetrics, tmp_path: Path) -> None:
    from recserve_server_ext.triton.metrics.models import interactions_metrics

    desk, name = Desk(tmp_path / "i.db"), "recserve_interactions_waiting"
    sampled = interactions_metrics(desk.desk)
    assert fake.values[name] == 0
    with ThreadPoolExecutor(1) as pool:
        with locked(tmp_path / "i.db"):
            asked = pool.submit(desk.ask, op="record", interactions=[act(event_id=f"e{n}") for n in range(7)])
            unanswered(desk.store._commit, 7)
            sampled.sample()
            assert fake.values[name] == 7
        assert {result["status"] for result in asked.result(LONG_S)["results"]} == {"recorded"}
    sampled.sample()
    assert fake.values[name] == 0
    sampled.close()
    desk.close()


def test_what_is_admitted_and_shed_by_queue(fake: FakeMetrics) -> None:
    from recserve_server_ext.triton.metrics.models import AdmissionMetrics

    encoder, own = Admission("encoder"), Admission("own")
    metrics = AdmissionMetrics("recommend", Queues({"encoder": encoder, "own": own}, {"encoder": 0}), every_s=LONG_S)
    while encoder.admit(1, NO_DEADLINE) is None:
        pass
    own.admit(1, 0)
    own.expire()
    metrics.sample()
    metrics.sample()  # totals are counted once
    metrics.close()

    def values(queue: str) -> dict[str, float]:
        return {name: value for name, value in fake.values.items() if f'queue="{queue}"' in name and value}

    of = 'model="recommend",queue="{}"'
    assert values("encoder") == {
        f"recserve_admitted_requests{{{of.format('encoder')}}}": 64.0,
        f"recserve_admission_limit_requests{{{of.format('encoder')}}}": 64.0,
        f'recserve_requests_shed_total{{{of.format("encoder")},reason="full"}}': 1.0,
    }
    assert values("own") == {
        f"recserve_admission_limit_requests{{{of.format('own')}}}": 64.0,
        f'recserve_requests_shed_total{{{of.format("own")},reason="late"}}': 1.0,
        f'recserve_requests_shed_total{{{of.format("own")},reason="expired"}}': 1.0,
    }


def test_a_process_that_ends_lets_go_of_all_metrics(fake: FakeMetrics, edited: Edited) -> None:
    from recserve_server_ext.services.answer_counts import AnswerCounts
    from recserve_server_ext.triton.metrics.catalogue import ViewMetrics

    metrics = import_module("recserve_server_ext.triton.metrics.models")
    view, log, room = ViewMetrics(), metrics.LogMetrics(), metrics.WaitMetrics()
    queues = Queues({"encoder": Admission("encoder")}, {"encoder": 0})
    sampled = [
        metrics.AdmissionMetrics("recommend", queues, every_s=LONG_S),
        metrics.AnswerMetrics(AnswerCounts(), every_s=LONG_S),
        metrics.SampledMetrics([metrics.Gauge("any", "Any", lambda: 1.0)], every_s=LONG_S),
    ]
    assert fake.alive
    for one in sampled:
        one.close()
    metrics.release_metrics()
    assert not list(fake.alive)
    before = dict(fake.set_calls)
    view.show(live_over(edited).view())
    log.show(LogCounts(5, 1, 0))
    room.show(WaitCounts(1, 1, 0, 0, 0))
    assert fake.set_calls == before
