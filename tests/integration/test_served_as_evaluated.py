"""What the offline evaluation says is served is what a real server answers over gRPC."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from recserve_benchmarks.evaluation.ranking import Known, known_to
from recserve_benchmarks.evaluation.served import Server
from recserve_benchmarks.evaluation.split import Part
from recserve_client import Client, ClientOptions
from recserve_client.contract import RecommendRequest, Slate
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.strategies.registry import Registry
from support.served import served

pytestmark = pytest.mark.triton
USERS = 40
TYPES = ["view", "like", "dislike", "purchase"]


@pytest.fixture(scope="module")
def home(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("evaluated") / "home"
    return shutil.copytree(
        tiny_home, copy, symlinks=True, ignore=shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")
    )


@pytest.fixture(scope="module")
def known(home: Path) -> Known:
    """A made-up log of users with tastes, in the store of the home; the last user has none."""
    place = Workspace(home)
    snapshot = Snapshot.load(current(place.snapshots))
    rng, items, now = np.random.default_rng(5), len(snapshot.ids), time.time()
    lengths = np.append(rng.integers(1, 40, USERS - 1), 0)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    total = int(offsets[-1])
    # Half of the users keep to the first half of the catalogue, and some items are liked by many.
    favourites = (rng.beta(0.4, 3.0, total) * items / 2).astype(np.int64)
    subject = favourites + np.repeat(np.arange(USERS) % 2, lengths) * (items // 2)
    kinds = rng.integers(0, len(TYPES), total)
    time_us = np.round((now - 86_400 + rng.permutation(total) * 60.0) * 1e6).astype(np.int64)
    nothing = np.full(total, np.nan)
    columns = InteractionColumns(
        offsets, time_us, kinds, subject, nothing, nothing, nothing, nothing, TYPES, list(snapshot.ids),
        np.ones(items, np.bool_),
    )  # fmt: skip
    pseudonyms = read_pseudonyms(place.pseudonym_key)
    events = [
        Interaction(
            user=pseudonyms.of(f"user{user}"), type=TYPES[kind], item=snapshot.ids[item], timestamp=us / 1e6,
        )
        for user, kind, item, us in zip(*(of.tolist() for of in (columns.user, kinds, subject, time_us)), strict=True)
    ]  # fmt: skip
    with InteractionStore(place.interactions, create=True) as store:
        assert {found.status for found in store.record(events)} == {"recorded"}
    targets = sparse.csr_array((USERS, items), dtype=np.bool_)
    part = Part(known=np.ones(total, np.bool_), users=np.arange(USERS), targets=targets)
    return known_to(part, columns, np.asarray(snapshot.text.vectors))


@pytest.fixture(scope="module")
def client(home: Path, known: Known) -> Iterator[Client]:
    with served(home) as live, Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        # Item-to-item counts come in the background.
        deadline = time.monotonic() + 60
        while not any(_counted(client, f"user{user}") for user in range(USERS)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield client


def _counted(client: Client, user: str) -> bool:
    items = client.recommend_for(user, strategy="blend").items
    return any(isinstance(item.parts, dict) and item.parts.get("item_knn") for item in items)


REQUESTS: list[dict[str, Any]] = [
    {},
    {"strategy": "blend"},
    {"interests": 4},
    {"strategy": "blend", "interests": 3},
]


@pytest.mark.parametrize("options", REQUESTS, ids=["text", "blend", "interests", "both"])
def test_the_offline_list_is_the_answer(client: Client, known: Known, options: dict[str, Any]) -> None:
    request = RecommendRequest(user_id="", k=10, **options)
    asked_us = time.time_ns() // 1000
    answers = [client.recommend_for(f"user{user}", k=10, ef=1000, **options) for user in range(USERS)]
    # A moment more or less changes scores by less than what is compared.
    of_now = replace(known, part=replace(known.part, asked_us=(asked_us + time.time_ns() // 1000) // 2))
    assert answers[0].strategy == options.get("strategy", "text")
    assert answers[-1].strategy == options.get("strategy", "popular")
    server = Server(of_now, trains=False)
    for user, (_, slate) in enumerate(server.answers(request, Registry(), np.arange(USERS))):
        found = answers[user]
        assert isinstance(slate, Slate)
        assert [item.id for item in found.items] == [item.id for item in slate.items]
        assert found.strategy == slate.strategy
        assert [item.score for item in found.items] == pytest.approx([item.score for item in slate.items], abs=1e-4)
