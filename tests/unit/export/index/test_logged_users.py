"""Engines are chosen with the user vectors that serving makes of the log, where it holds enough users."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recserve_export.index.build import build_index
from recserve_export.index.engine_build import build_engine
from recserve_export.index.engine_choice import Settings
from recserve_export.index.logged_users import LEAST, MOST, logged_users
from recserve_export.index.recall import NEIGHBOURS
from recserve_export.index.report import read_report
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event
from support.service import vector_of
from support.small_snapshot import small_snapshot
from support.user_service import Service

QUICK = Settings(engine="hnsw", m=(8,), ef=(16, 64), ef_construction=40, users=20, threads=1)


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[InteractionStore]:
    with InteractionStore(tmp_path / "log.db", InteractionLimits(), create=True, clock=lambda: NOW) as store:
        yield store


def record(store: InteractionStore, users: int) -> None:
    """Each user likes a few items and a text, dislikes one, and had to do with one that is gone."""
    rng = np.random.default_rng(2)
    for user in range(users):
        name = PSEUDONYMS.of(f"user{user}")
        items = [f"i{n}" for n in rng.choice(200, int(rng.integers(2, 9)), replace=False)]
        acts = [event(name, item, type="click", timestamp=NOW - 60 * n) for n, item in enumerate(items)]
        acts.append(event(name, f"i{rng.integers(200)}", type="dislike", timestamp=NOW - 5000))
        acts.append(event(name, "gone", timestamp=NOW - 6000))
        if user % 3 == 0:
            acts.append(event(name, None, text=f"text {user % 30}", type="search", timestamp=NOW - 7000))
        store.record(acts)


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    assert len(set(texts)) == len(texts)
    return np.stack([vector_of(text) for text in texts])


def vectors_of(store: InteractionStore, snapshot: Snapshot, seed: int = 0) -> NDArray[np.float32] | None:
    return logged_users(store, HistoryRules(), snapshot.row_of, snapshot.text.vectors, encode, seed=seed)


def test_they_are_the_user_vectors_that_are_served(store: InteractionStore, snapshot: Snapshot, tmp_path: Path) -> None:
    record(store, LEAST + 10)
    made = vectors_of(store, snapshot)
    assert made is not None
    assert made.shape == (LEAST + 10, 16)
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    service = Service(snapshot, tmp_path / "log.db")
    for user in range(0, LEAST, 7):
        for item in service.recommend_for(f"user{user}", k=5, exclude_seen=False, ef=200).items:
            # Served scores are float32 products of 16 numbers.
            assert item.score == pytest.approx(
                float(made[user] @ snapshot.text.vectors[snapshot.row_of[item.id]]), abs=2e-6
            )
    service.store.close()


def test_too_few_users_are_not_measured_with(store: InteractionStore, snapshot: Snapshot) -> None:
    record(store, LEAST - 1)
    assert vectors_of(store, snapshot) is None
    # Users without a single known item do not count.
    for user in range(30):
        store.record([event(PSEUDONYMS.of(f"cold{user}"), "gone")])
    assert vectors_of(store, snapshot) is None


def test_a_sample_of_many_is_seeded(store: InteractionStore) -> None:
    for start in range(0, MOST + 500, 500):
        store.record([event(f"{start + n:064x}", f"i{n % 200}") for n in range(500)])
    drawn = store.sample_users(MOST, 0)
    assert len(drawn) == len(set(drawn)) == MOST
    assert drawn == sorted(drawn) == store.sample_users(MOST, 0) != store.sample_users(MOST, 1)
    assert len(store.sample_users(10_000, 0)) == MOST + 500


def test_report_and_manifest_say_who_was_measured_with(
    store: InteractionStore, snapshot: Snapshot, tmp_path: Path
) -> None:
    record(store, LEAST)
    logged = vectors_of(store, snapshot)
    _, report = build_engine(snapshot.text.vectors, replace(QUICK, users=200), logged=logged)
    assert (report.users_from, report.users) == ("logged histories (200 users)", 200)
    assert set(report.points[0].recall) == {"logged"}
    ids, all_of_log = list(snapshot.row_of), replace(QUICK, users=200)
    built = build_index(
        tmp_path / "logged", snapshot.text.vectors, ids, encoder="test", settings=all_of_log, logged=logged
    )
    assert built.manifest.text.measured_with == read_report(built.folder).users_from == "logged histories (200 users)"
    plain = build_index(tmp_path / "plain", snapshot.text.vectors, ids, encoder="test", settings=QUICK)
    assert plain.manifest.text.measured_with == read_report(plain.folder).users_from == NEIGHBOURS
    assert set(plain.report.points[0].recall) == {"interests", "random"}
