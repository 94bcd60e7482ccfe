"""Feeds of events: one for each key that is listened with, whose listeners share one look at the server."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from recserve_client.contract import ErrorKind
from recserve_client.errors import PermissionDenied, Unauthenticated
from recserve_client.http.events.state import Ask, ServerState, changes, look
from recserve_client.http.problems import ProblemError, busy

_EVERY_S: Final = 2.0
#: Seconds that a feed without listeners goes on, so that one who comes back misses nothing.
_LINGER_S: Final = 60.0
#: Events of a feed that are held for those who come back, and events that wait for one listener.
_HELD: Final = 256
_WAITING: Final = 64


class Event(msgspec.Struct, frozen=True):
    """An event.

    Attributes:
        id: Its id, which `Last-Event-ID` names.
        name: What changed; `state` for the first event of a stream that goes on from no other.
        state: The state after it.
    """

    id: str
    name: str
    state: ServerState

    def encoded(self) -> bytes:
        """The event as bytes of the stream; JSON has no line breaks."""
        return f"id: {self.id}\nevent: {self.name}\ndata: {msgspec.json.encode(self.state).decode()}\n\n".encode()


class Listener:
    """One who listens to a feed."""

    def __init__(self, feed: _Feed) -> None:
        self._feed = feed
        self._waiting: asyncio.Queue[Event | None] = asyncio.Queue(_WAITING + 1)

    async def next(self) -> Event | None:
        """The next event; `None` where the feed ends, or the listener is too slow for it."""
        return await self._waiting.get()

    def give(self, event: Event) -> None:
        """Queue an event; a listener who is too slow is left after those that wait, and may come back for the rest."""
        if self._waiting.qsize() < _WAITING:
            self._waiting.put_nowait(event)
        else:
            self.end()

    def end(self) -> None:
        """Hear no more."""
        if self in self._feed.listeners:
            self._feed.leave(self)
            self._waiting.put_nowait(None)


class _Feed:
    """Events as one key may see them.

    Attributes:
        listeners: Who listens.
    """

    def __init__(self, feeds: Feeds, key: str) -> None:
        self._feeds, self._key = feeds, key
        self._name, self._count = secrets.token_hex(4), 0
        self._held: deque[tuple[int, Event]] = deque(maxlen=_HELD)
        self._state: ServerState | None = None
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listeners: set[Listener] = set()
        self._task = asyncio.create_task(self._run())

    async def begun(self) -> None:
        """Wait for the first look; raises Unauthenticated, PermissionDenied or ProblemError where it fails."""
        await asyncio.shield(self._begun)

    def join(self, last_id: str) -> Listener:
        """One who listens from now on, and first gets what came after an event, or else the state."""
        assert self._state is not None
        listener = Listener(self)
        self.listeners.add(listener)
        missed = self._after(last_id)
        for event in [self._event("state", self._state)] if missed is None else missed:
            listener.give(event)
        return listener

    def leave(self, listener: Listener) -> None:
        """Give a listener no more events."""
        self.listeners.discard(listener)
        self._feeds.left()

    def stop(self) -> None:
        """End, and let all listeners end."""
        self._task.cancel()

    def _after(self, last_id: str) -> list[Event] | None:
        """The events after one; `None` where it is of another feed, or not held any more."""
        name, _, number = last_id.partition("-")
        if name != self._name or not number.isdecimal() or len(number) > 18:
            return None
        first = self._count - len(self._held)
        if not first <= int(number) <= self._count:
            return None
        return [event for place, event in self._held if place > int(number)]

    def _event(self, name: str, state: ServerState) -> Event:
        return Event(f"{self._name}-{self._count}", name, state)

    async def _run(self) -> None:
        """Look until the key is refused, or nobody has listened for a while."""
        alone_s = 0.0
        refused: Exception = ProblemError(ErrorKind.UNAVAILABLE, "this HTTP server is stopping")
        try:
            while alone_s <= self._feeds.linger_s:
                self._take(await look(self._feeds.ask, self._key, self._feeds.refused, self._state))
                if not self._begun.done():
                    self._begun.set_result(None)
                await asyncio.sleep(self._feeds.every_s)
                alone_s = 0.0 if self.listeners else alone_s + self._feeds.every_s
        except (Unauthenticated, PermissionDenied) as error:
            refused = error
        finally:
            self._feeds.forget(self._key, self)
            if not self._begun.done():
                self._begun.set_exception(refused)
                self._begun.exception()  # known, also where nobody waits for it any more
            for listener in list(self.listeners):
                listener.end()

    def _take(self, state: ServerState) -> None:
        before, self._state = self._state, state
        for name in [] if before is None else changes(before, state):
            self._count += 1
            event = self._event(name, state)
            self._held.append((self._count, event))
            for listener in list(self.listeners):
                listener.give(event)


class Feeds:
    """The feeds of a process.

    Attributes:
        ask: Asks the server.
        refused: Problems until now, by kind.
        every_s: Seconds between two looks.
        linger_s: Seconds that a feed without listeners goes on.
    """

    def __init__(
        self,
        ask: Ask,
        most: int,
        refused: Mapping[str, int],
        *,
        every_s: float = _EVERY_S,
        linger_s: float = _LINGER_S,
    ) -> None:
        """
        Args:
            ask: Asks the server.
            most: Most listeners, of all feeds together.
            refused: Problems until now, by kind.
            every_s: Seconds between two looks.
            linger_s: Seconds that a feed without listeners goes on.
        """
        self.ask, self.refused, self.every_s, self.linger_s = ask, refused, every_s, linger_s
        self._most, self._listening = most, 0
        self._feeds: dict[str, _Feed] = {}

    async def listen(self, key: str, last_id: str = "") -> Listener:
        """Listen with a key; `Listener.end` must be called at the end.

        Args:
            key: API key; empty for none.
            last_id: Id of the last event that was heard; empty for none.

        Raises:
            ProblemError: There are too many listeners.
            Unauthenticated: The server wants another key.
            PermissionDenied: The key lacks the scope `recommend`.
        """
        if self._listening >= self._most:
            raise busy(self._most)
        self._listening += 1
        try:
            feed = self._feeds.get(key)
            if feed is None:
                feed = self._feeds[key] = _Feed(self, key)
            await feed.begun()
            return feed.join(last_id)
        except BaseException:
            self.left()
            raise

    def left(self) -> None:
        """Count one less who listens."""
        self._listening -= 1

    def forget(self, key: str, feed: _Feed) -> None:
        """Make a new feed for the next who listens with a key."""
        if self._feeds.get(key) is feed:
            del self._feeds[key]

    def stop(self) -> None:
        """End all feeds, and let all listeners end."""
        for feed in list(self._feeds.values()):
            feed.stop()
