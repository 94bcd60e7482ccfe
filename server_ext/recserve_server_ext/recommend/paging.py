"""Pages of a ranking: the ids of the best items are kept for a while, under a cursor that cannot be made up."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import threading
from typing import NamedTuple

import msgspec
from cachetools import LRUCache

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, pack, shown
from recserve_server_ext.recommend.picks import Picks

_NAME_BYTES = 16
_START_BYTES = 4
_SIGNATURE_BYTES = 16


class Ranking(NamedTuple):
    """The items of one request, all pages of it.

    Attributes:
        ids: Item ids, best first.
        picks: What else is known of them, in the same order.
        revision: Of the catalogue that it was made from.
    """

    ids: list[str]
    picks: Picks
    revision: int


class Part(NamedTuple):
    """Where a cursor points to.

    Attributes:
        name: Of the ranking.
        ranking: Itself.
        start: Place of the first item, from 0.
    """

    name: bytes
    ranking: Ranking
    start: int


class Rankings:
    """Keeps the rankings that pages were asked of, the least recently used go first; safe to share between threads.

    A cursor is signed with a key of this process, over the ranking, the place in it and the request.
    """

    def __init__(self, limit: int) -> None:
        """Keep at most so many."""
        self._limit = limit
        self._key = os.urandom(32)
        self._kept = LRUCache[bytes, Ranking](limit)
        self._lock = threading.Lock()

    def keep(self, ranking: Ranking) -> bytes:
        """Keep a ranking; its new name comes back."""
        name = os.urandom(_NAME_BYTES)
        with self._lock:
            self._kept[name] = ranking
        return name

    def cursor(self, request: RecommendRequest, name: bytes, start: int) -> str:
        """The cursor of a request that points to a place in a ranking."""
        pointer = name + start.to_bytes(_START_BYTES, "big")
        return base64.urlsafe_b64encode(pointer + self._signature(request, pointer)).decode()

    def resume(self, request: RecommendRequest, cursor: str) -> Part:
        """What a cursor points to.

        Raises:
            RequestError: expired_cursor: made by another process, for another request, by nobody, or gone.
        """
        try:
            raw = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        pointer, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
        if len(raw) != _NAME_BYTES + _START_BYTES + _SIGNATURE_BYTES or not hmac.compare_digest(
            signature, self._signature(request, pointer)
        ):
            raise _expired(cursor, "is not one of this request since the server started")
        name = pointer[:_NAME_BYTES]
        with self._lock:
            ranking = self._kept.get(name)
        if ranking is None:
            raise _expired(cursor, f"is too old: the last {self._limit:,} rankings are kept (limits.cursors)")
        return Part(name, ranking, int.from_bytes(pointer[_NAME_BYTES:], "big"))

    def _signature(self, request: RecommendRequest, pointer: bytes) -> bytes:
        # The ensemble encodes texts anew for each page, and their vectors may differ in the last bits.
        history = [
            behaviour if behaviour.text is None else msgspec.structs.replace(behaviour, vector=None)
            for behaviour in request.history
        ]
        rest = pack(msgspec.structs.replace(request, history=history, encoder="", page=None))
        return hashlib.blake2b(pointer + rest, key=self._key, digest_size=_SIGNATURE_BYTES).digest()


def _expired(cursor: str, what: str) -> RequestError:
    return RequestError(
        ErrorKind.EXPIRED_CURSOR, f"the cursor {shown(cursor)} {what}; ask for the first page again, without a cursor"
    )
