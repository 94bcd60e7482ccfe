"""Pages of a ranked list: the lists are cached, and a signed cursor names a list and a position in it."""

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
from recserve_server_ext.recommend.ranked_items import RankedItems

_KEY_BYTES = 16
_START_BYTES = 4
_SIGNATURE_BYTES = 16


class CachedRanking(NamedTuple):
    """The ranked items of one request, for all its pages.

    Attributes:
        ids: Item ids, best first.
        items: The ranked items, in the same order.
        revision: Revision of the catalogue that they were ranked on.
    """

    ids: list[str]
    items: RankedItems
    revision: int


class PagePosition(NamedTuple):
    """The position that a cursor points to.

    Attributes:
        key: Key of the ranking.
        ranking: The ranking.
        start: Position of the page's first item, from 0.
    """

    key: bytes
    ranking: CachedRanking
    start: int


class RankingCache:
    """A thread-safe least-recently-used cache of the rankings that pages are cut from.

    A cursor is signed with a secret of this process, over the ranking's key, the position and the request.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._secret = os.urandom(32)
        self._rankings = LRUCache[bytes, CachedRanking](limit)
        self._lock = threading.Lock()

    def add(self, ranking: CachedRanking) -> bytes:
        """Cache a ranking under a new key, and return the key."""
        key = os.urandom(_KEY_BYTES)
        with self._lock:
            self._rankings[key] = ranking
        return key

    def cursor(self, request: RecommendRequest, key: bytes, start: int) -> str:
        """The cursor of a request for a position in a ranking."""
        pointer = key + start.to_bytes(_START_BYTES, "big")
        return base64.urlsafe_b64encode(pointer + self._signature(request, pointer)).decode()

    def resume(self, request: RecommendRequest, cursor: str) -> PagePosition:
        """The position that a cursor points to.

        Raises:
            RequestError: expired_cursor: the cursor is forged, was made by another process or for another request, or
                its ranking is no longer cached.
        """
        try:
            raw = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        pointer, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
        if len(raw) != _KEY_BYTES + _START_BYTES + _SIGNATURE_BYTES or not hmac.compare_digest(
            signature, self._signature(request, pointer)
        ):
            raise _expired(cursor, "is not one of this request since the server started")
        key = pointer[:_KEY_BYTES]
        with self._lock:
            ranking = self._rankings.get(key)
        if ranking is None:
            raise _expired(cursor, f"is too old: the last {self._limit:,} rankings are kept (limits.cursors)")
        return PagePosition(key, ranking, int.from_bytes(pointer[_KEY_BYTES:], "big"))

    def _signature(self, request: RecommendRequest, pointer: bytes) -> bytes:
        # The ensemble encodes texts again for each page, and their vectors may differ in the last bits.
        history = [
            behaviour if behaviour.text is None else msgspec.structs.replace(behaviour, vector=None)
            for behaviour in request.history
        ]
        unsigned = {"encoder": "", "page": None, "traceparent": "", "accept": "json", "walk": None}
        signed = pack(msgspec.structs.replace(request, history=history, **unsigned))
        return hashlib.blake2b(pointer + signed, key=self._secret, digest_size=_SIGNATURE_BYTES).digest()


def _expired(cursor: str, what: str) -> RequestError:
    return RequestError(
        ErrorKind.EXPIRED_CURSOR, f"the cursor {shown(cursor)} {what}; ask for the first page again, without a cursor"
    )
