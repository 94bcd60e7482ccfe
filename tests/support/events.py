"""Interactions for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recserve_server_ext.interactions.interaction import Interaction, Recorded
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore

#: Opens a store with limits, and by a clock that stands still.
Opener = Callable[..., InteractionStore]

#: The clock of the tests: in 2027.
NOW = 1_800_000_000.0
KEY = b"k" * 32
PSEUDONYMS = Pseudonyms(KEY)
ANN, BOB = PSEUDONYMS.of("ann"), PSEUDONYMS.of("bob")


def event(user: str = ANN, item: str | None = "i1", **fields: Any) -> Interaction:
    """A view of `i1` by Ann a minute ago, unless told otherwise."""
    return Interaction(**{"user": user, "item": item, "type": "view", "timestamp": NOW - 60, **fields})


def statuses(answers: list[Recorded]) -> list[str]:
    """What became of each interaction: the reason where one was refused."""
    return [answer.status if answer.reason is None else answer.reason.value for answer in answers]


def held(store: InteractionStore, user: str = ANN) -> list[dict[str, Any]]:
    """The interactions of a user."""
    interactions: list[dict[str, Any]] = store.export(user)["interactions"]
    return interactions


def seen(store: InteractionStore, user: str) -> dict[str, dict[str, float]]:
    """{item: {kind: last timestamp}} of all that a user had to do with."""
    found: dict[str, dict[str, float]] = {}
    for entry in store.export(user)["seen"]:
        found.setdefault(entry["item"], {})[entry["kind"]] = entry["timestamp"]
    return found
