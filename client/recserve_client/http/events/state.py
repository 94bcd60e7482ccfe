"""The state of a server, by a real inference, and the names of what changed in it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct

from recserve_client import server_calls
from recserve_client.calls import Call
from recserve_client.errors import PermissionDenied, RecserveError, Unauthenticated
from recserve_client.http.problems import problem_of

#: Asks the server.
Ask = Callable[[Call[Any]], Awaitable[Any]]
_PROBE_S: Final = 2.0
#: Names of the changes, and the fields that tell them.
_FIELDS_OF: Final = {
    "health": ("is_well", "fault"),
    "encoder": ("encoder",),
    "revision": ("revision",),
    "snapshot": ("snapshot",),
    "trained": ("trained",),
    "experiments": ("experiments",),
    "refused": ("refused",),
}


class ServerState(Struct, frozen=True):
    """The data of an event: the state of the server after it. While the server is away, the rest stays as it was.

    Attributes:
        time: Moment of the look, in seconds since 1970.
        is_well: Whether the server just made a real recommendation from a text.
        fault: Kind of the error otherwise; see docs/reference/errors.md.
        encoder: Fingerprint of the encoder.
        revision: Revision of the catalogue.
        snapshot: Name of the snapshot.
        trained: Version of each trained space, matrix and model of the snapshot, by name.
        experiments: Version of each running experiment, by name.
        refused: Requests that this HTTP server answered with a problem since it began, by kind.
    """

    time: float
    is_well: bool
    fault: str = ""
    encoder: str = ""
    revision: int = 0
    snapshot: str = ""
    trained: dict[str, str] = {}
    experiments: dict[str, str] = {}
    refused: dict[str, int] = {}


async def look(ask: Ask, key: str, refused: Mapping[str, int], before: ServerState | None) -> ServerState:
    """The state of the server now.

    Args:
        ask: Asks the server.
        key: API key of who wants to know; empty for none.
        refused: Problems until now, by kind.
        before: The state before, or `None`.

    Raises:
        Unauthenticated: The server wants another key.
        PermissionDenied: The key lacks the scope `recommend`.
    """
    known = before or ServerState(0.0, is_well=False)
    try:
        slate = await ask(replace(server_calls.probe(deadline_s=_PROBE_S), key=key))
    except (Unauthenticated, PermissionDenied):
        raise
    except RecserveError as error:
        fault = str(problem_of(error).kind)
        return msgspec.structs.replace(known, time=time.time(), is_well=False, fault=fault, refused=dict(refused))
    assert slate.walk is not UNSET
    served = slate.walk.served
    return ServerState(
        time.time(),
        is_well=True,
        encoder=slate.encoder,
        revision=slate.revision,
        snapshot=served.snapshot,
        trained=served.trained,
        experiments=served.experiments,
        refused=dict(refused),
    )


def changes(before: ServerState, after: ServerState) -> list[str]:
    """Names of what changed between two looks."""
    return [
        name
        for name, fields in _FIELDS_OF.items()
        if any(getattr(before, field) != getattr(after, field) for field in fields)
    ]
