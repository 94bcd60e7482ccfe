"""An interaction store whose key is rotated: its users, and what has to be there of them afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers, erased, users
from support.answers import by_user, log_of, plain
from support.events import NOW, event

NAMES = [f"user {n}" for n in range(12)]
GONE = "erased user"


def opened(where: Path | str, key_file: Path) -> InteractionStore:
    """A store with the keys of the file, as a process that starts now has them."""
    store = InteractionStore(where, create=True, clock=lambda: NOW, keys=UserKeys(lambda: read_pseudonyms(key_file)))
    assert store.keys is not None
    store.keys.settle(store.database)
    return store


def of(store: InteractionStore, name: str) -> str:
    assert store.keys is not None
    return store.keys.pseudonyms.of(name)


def events_of(ring: Pseudonyms) -> list[Interaction]:
    """What all users did: some with an id, some with a text, and with every field that a made id depends on."""
    rng = np.random.default_rng(7)
    made = []
    for name in NAMES:
        for n in range(8):
            subject = {"item": None, "text": f"text é {n}"} if n == 3 else {"item": f"i{rng.integers(20)}"}
            fields: dict[str, Any] = {
                "type": str(rng.choice(["view", "purchase", "dislike"])),
                "timestamp": NOW - float(rng.uniform(1, 1e6)),
                "value": float(rng.normal()) if n % 2 else None,
                "quantity": float(n) if n == 4 else None,
                "session_id": "s" if n == 5 else None,
                "context": {"device": "phone", "n": n, "part": 0.1, "is": True} if n > 5 else {},
                "event_id": f"{name}-{n}" if n == 0 else None,
            }
            made.append(event(ring.of(name), **subject, **fields))
    return made


def filled(where: Path | str, key_file: Path) -> InteractionStore:
    """A store with users, logged answers and one that was erased."""
    store = opened(where, key_file)
    assert store.keys is not None
    ring = store.keys.pseudonyms
    store.record([*events_of(ring), event(ring.of(GONE))])
    log = log_of(store, plain=1.0)
    for n, name in enumerate([*NAMES, GONE]):
        log.offer(by_user(f"r{n}"), ring.of(name), ring.fingerprint)
    log.offer(plain("nobody"), None)
    log.close()
    store.erase(ring.of(GONE))
    return store


def held(store: InteractionStore, name: str) -> dict[str, Any]:
    """All of a user, but for what a rotation changes."""
    found = store.export(of(store, name))
    for row in found["interactions"]:
        row.pop("user")
    found.pop("user")
    return found


def all_held(store: InteractionStore) -> dict[str, dict[str, Any]]:
    return {name: held(store, name) for name in [*NAMES, GONE]}


def check_whole(store: InteractionStore, before: dict[str, dict[str, Any]]) -> None:
    """Everything is there under the keys in force, once, and nothing else is."""
    assert store.keys is not None
    ring = store.keys.pseudonyms
    assert all_held(store) == before
    with store.database.reading() as connection:
        known = set(connection.execute(sa.select(users.c.pseudonym)).scalars())
        by = sa.select(users.c.pseudonym).outerjoin_from(answers, users, answers.c.user == users.c.number)
        logged = set(connection.execute(by).scalars())
        marks = set(connection.execute(sa.select(erased.c.mark)).scalars())
    assert known == {ring.of(name) for name in NAMES}
    assert logged == {None, *known}
    assert marks == {ring.tombstone(ring.of(GONE))}
    assert {answer.status for answer in store.record(events_of(ring))} == {"duplicate"}
    (late,) = store.record([event(ring.of(GONE))])
    assert late.reason == "erased"
