"""The strategy `sequence` over a real Triton: trained, taken over by an index, served by a model of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, item
from recserve_export.index.build import build
from recserve_export.index.engine_choice import Settings
from recserve_export.training.publish import train_home
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.index.snapshot import Snapshot, current
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from support.served import served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
USERS, ITEMS, LENGTH = 60, 40, 12
SETTINGS = {"dim": 16, "length": LENGTH, "layers": 1, "epochs": 12, "rate": 0.01, "held_out": 0.0}


def train_and_build(home: Path, seed: int = 0) -> None:
    workspace, settings = Workspace(home), {"sequence": {**SETTINGS, "seed": seed}}
    train_home(workspace, ["sequence"], workspace.interactions, HistoryRules(), settings)
    build(workspace, choose_encoder(workspace, "auto"), Settings(engine="exact"))


@pytest.fixture(scope="module")
def films(tiny_home: Path) -> list[str]:
    return Snapshot.load(current(Workspace(tiny_home).snapshots)).ids


@pytest.fixture(scope="module")
def untrained(tiny_home: Path, films: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a log in which every user goes from film to film in one order, from a film of their own."""
    copy = copy_home(tiny_home, tmp_path_factory.mktemp("sequence") / "home")
    workspace = Workspace(copy)
    pseudonyms = read_pseudonyms(workspace.pseudonym_key)
    events = [
        Interaction(
            user=pseudonyms.of(f"user{user}"),
            type="like",
            item=films[(user + step) % ITEMS],
            timestamp=1_700_000_000.0 + 1000 * user + 10 * step,
        )
        for user in range(USERS)
        for step in range(10)
    ]
    with InteractionStore(workspace.interactions, create=True) as store:
        assert {found.status for found in store.record(events)} == {"recorded"}
    return copy


@pytest.fixture(scope="module")
def home(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import shutil

    copy = tmp_path_factory.mktemp("trained") / "home"
    shutil.copytree(untrained, copy, symlinks=True)
    train_and_build(copy)
    return copy


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[Client]:
    with served(home) as live, Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


def test_a_history_leads_to_what_follows(client: Client, films: list[str]) -> None:
    for start in (0, 7, 20):
        slate = client.recommend([item(film) for film in films[start : start + 5]], k=3, strategy="sequence")
        assert slate.strategy == "sequence"
        assert films[start + 5] in {found.id for found in slate.items}
