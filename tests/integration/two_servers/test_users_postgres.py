"""Interactions in PostgreSQL, served by two servers: nothing acknowledged is lost when it restarts."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from recserve_client import Client, ClientOptions, interaction
from recserve_client.errors import RecserveError, Unavailable
from recserve_server_ext.interactions.store import InteractionStore
from support.load import Recording
from support.postgres import Postgres
from support.two_servers import Pair

pytestmark = pytest.mark.triton
ONCE = ClientOptions(tries=1, deadline_s=30)


def test_a_database_that_crashes_under_load_loses_nothing_acknowledged(
    on_postgres: Pair, postgres: Postgres, films: list[str]
) -> None:
    servers = on_postgres.one, on_postgres.other
    with Client(servers[0].grpc, ONCE) as client:
        client.interactions.record([interaction("reader", "like", films[0])])
    answers: list[str] = []
    unanswered: list[RecserveError] = []
    over = threading.Event()

    def ask() -> None:
        with Client(servers[1].grpc, ONCE) as own:
            while not over.is_set():
                try:
                    answers.append(own.recommend_for("reader").strategy)
                except RecserveError as error:
                    unanswered.append(error)
                over.wait(0.01)

    recording = Recording([served.grpc for served in servers])
    with ThreadPoolExecutor(1) as threads, recording:
        asking = threads.submit(ask)
        try:
            recording.wait(lambda: len(recording.acknowledged) > 50 and bool(answers))
            postgres.stop("immediate")
            try:
                recording.wait(lambda: len(recording.refused) > 5)
            finally:
                postgres.start()
            after, answered = len(recording.acknowledged), len(answers)
            recording.wait(lambda: len(recording.acknowledged) > after + 50 and len(answers) > answered)
        finally:
            over.set()
        asking.result(60)
    assert {type(error) for error in [*recording.refused, *unanswered]} <= {Unavailable}
    assert "the interactions store postgresql://" in recording.refused[0].message
    assert answers[0] == answers[-1] == "text"
    assert not [event for served in servers for event in served.events() if event["event"] == "server_restarted"]
    with InteractionStore(on_postgres.interactions) as store, store.all() as rows:
        held = [row["event_id"] for row in rows]
    assert len(held) == len(set(held))
    assert set(recording.acknowledged) <= set(held)
