"""A log of four crowds: each likes items of its own, some at first and others later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from recserve_export.index.build import build_index
from recserve_export.index.engine_choice import Settings
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event

USERS, CROWDS, LIKED = 60, 4, 20
_DAY_S = 86_400.0


def crowd(day: int, each: int, users: int = USERS) -> list[Interaction]:
    """What users do on a day, counted back from now: each crowd likes items of its own."""
    random = np.random.default_rng(day)
    return [
        event(
            PSEUDONYMS.of(f"user{user}"),
            f"i{LIKED * (user % CROWDS) + place}",
            type="like",
            timestamp=NOW - day * _DAY_S + 60.0 * n + user,
        )
        for user in range(users)
        for n, place in enumerate(random.choice(LIKED, each, replace=False).tolist())
    ]


def record(store: InteractionStore, events: list[Interaction]) -> None:
    assert {found.status for found in store.record(events)} <= {"recorded", "duplicate"}


@contextmanager
def opened(workspace: Workspace) -> Iterator[InteractionStore]:
    with InteractionStore(workspace.interactions, create=True, clock=lambda: NOW) as store:
        yield store


def make_crowd_home(home: Path) -> Workspace:
    """A home with an index of the items and what the crowds did a month ago."""
    workspace, ids = Workspace(home), [f"i{n}" for n in range(CROWDS * LIKED)]
    vectors = np.random.default_rng(0).normal(size=(len(ids), 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    build_index(workspace.snapshots, vectors, ids, encoder="abc", settings=Settings(engine="exact", users=10))
    with opened(workspace) as store:
        record(store, crowd(day=30, each=8))
    return workspace
