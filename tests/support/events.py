"""Interactions for tests."""

from __future__ import annotations

from typing import Any

from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

#: The clock of the tests: in 2027.
NOW = 1_800_000_000.0
KEY = b"k" * 32
PSEUDONYMS = Pseudonyms(KEY)
ANN, BOB = PSEUDONYMS.of("ann"), PSEUDONYMS.of("bob")


def event(user: str = ANN, item: str | None = "i1", **fields: Any) -> Interaction:
    """A view of `i1` by Ann a minute ago, unless told otherwise."""
    return Interaction(**{"user": user, "item": item, "type": "view", "timestamp": NOW - 60, **fields})
