"""Server-sent events without a server: what is told, to whom, and when a stream ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from recserve_client.contract import SlateWalk, WalkServed, models
from recserve_client.errors import Unauthenticated, from_status
from recserve_client.http.app import App, AppOptions
from recserve_client.http.events import feeds as module
from recserve_client.http.events.feeds import Event, Feeds, Listener
from recserve_client.http.events.state import ServerState
from recserve_client.http.problems import ProblemError
from support.fake_client import FakeClient
from support.inference_server import SLATE

pytestmark = pytest.mark.anyio
AWAY = from_status("UNAVAILABLE", "no server")
REFUSED = from_status("INVALID_ARGUMENT", "unauthenticated: a valid key is needed")


def serving(revision: int = 1, snapshot: str = "s1", **served: Any) -> Any:
    """A slate of a server that serves this."""
    walk = SlateWalk("text", [], [], [], WalkServed(snapshot, served.get("trained", {}), served.get("experiments", {})))
    return msgspec.structs.replace(SLATE, revision=revision, walk=walk)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Watched:
    """Feeds that look once, and again when they are told to."""

    def __init__(self, most: int = 10) -> None:
        self.fake, self.refused = FakeClient(), Counter[str]()
        self.fake.answers[models.RECOMMEND_TEXT] = serving()
        self._look = asyncio.Event()
        self._looked: set[str] = set()
        self.feeds = Feeds(self._ask, most, self.refused, every_s=1e-3, linger_s=0)

    async def _ask(self, call: Any) -> Any:
        if call.key in self._looked:
            await self._look.wait()
            self._look.clear()
        self._looked.add(call.key)
        return await self.fake.run(call)

    def look(self, answer: Any) -> None:
        """Look once more, and find this."""
        self.fake.answers[models.RECOMMEND_TEXT] = answer
        self._look.set()


@asynccontextmanager
async def watched(most: int = 10) -> AsyncIterator[Watched]:
    found = Watched(most)
    try:
        yield found
    finally:
        found.feeds.stop()


async def heard(listener: Listener) -> Event:
    event = await listener.next()
    assert event is not None
    return event


async def test_the_state_comes_first_and_then_what_changes() -> None:
    async with watched() as server:
        listener = await server.feeds.listen("")
        first = await heard(listener)
        assert (first.name, first.state.is_well, first.state.snapshot) == ("state", True, "s1")
        server.look(serving(revision=2, snapshot="s2", trained={"als": "v1"}, experiments={"e": "0123"}))
        found = [await heard(listener) for _ in range(4)]
        assert [event.name for event in found] == ["revision", "snapshot", "trained", "experiments"]
        assert len({event.id for event in (first, *found)}) == 5
        assert (found[0].state.trained, found[0].state.experiments) == ({"als": "v1"}, {"e": "0123"})
        server.refused["overloaded"] += 3
        server.look(serving(revision=2, snapshot="s2", trained={"als": "v1"}, experiments={"e": "0123"}))
        event = await heard(listener)
        assert (event.name, event.state.refused) == ("refused", {"overloaded": 3})
        # It is asked as one who only looks on.
        assert server.fake.asked[-1][1]["walk"] == {}


async def test_a_server_that_goes_and_comes_back() -> None:
    async with watched() as server:
        listener = await server.feeds.listen("")
        await heard(listener)
        server.look(AWAY)
        gone = await heard(listener)
        assert (gone.name, gone.state.is_well, gone.state.fault, gone.state.snapshot) == (
            "health", False, "unavailable", "s1",
        )  # fmt: skip
        server.look(serving())
        back = await heard(listener)
        assert (back.name, back.state.is_well, back.state.fault) == ("health", True, "")


async def test_who_comes_back_gets_what_was_missed() -> None:
    async with watched() as server:
        listener, other = await server.feeds.listen(""), await server.feeds.listen("")
        first = await heard(listener)
        listener.end()
        for revision in (2, 3):
            server.look(serving(revision))
            while (await heard(other)).state.revision != revision:
                pass
        again = await server.feeds.listen("", first.id)
        assert [(await heard(again)).state.revision for _ in range(2)] == [2, 3]
        for unknown in ("", "x-1", f"{first.id}9", first.id.partition("-")[0], first.id.replace("-", "--")):
            assert (await heard(await server.feeds.listen("", unknown))).name == "state"


async def test_listeners_of_one_key_share_the_looks_and_of_another_do_not() -> None:
    async with watched() as server:
        for _ in range(3):
            await heard(await server.feeds.listen("one"))
        assert server.fake.keys == ["one"]
        await heard(await server.feeds.listen("two"))
        assert server.fake.keys == ["one", "two"]


async def test_a_refused_key_is_told_and_a_revoked_one_ends_its_streams() -> None:
    async with watched() as server:
        server.fake.answers[models.RECOMMEND_TEXT] = REFUSED
        for key in ("wrong", "false"):
            with pytest.raises(Unauthenticated):
                await server.feeds.listen(key)
        server.fake.answers[models.RECOMMEND_TEXT] = serving()
        listener = await server.feeds.listen("right")
        await heard(listener)
        server.look(REFUSED)
        assert await listener.next() is None


async def test_one_listener_too_many_is_refused_until_one_has_left() -> None:
    async with watched(most=2) as server:
        first = await server.feeds.listen("")
        await server.feeds.listen("")
        with pytest.raises(ProblemError, match="2 requests are under way"):
            await server.feeds.listen("")
        first.end()
        first.end()
        await server.feeds.listen("")
        with pytest.raises(ProblemError):
            await server.feeds.listen("")


async def test_who_does_not_keep_up_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WAITING", 2)
    async with watched() as server:
        slow, quick = await server.feeds.listen(""), await server.feeds.listen("")
        await heard(quick)
        for revision in (2, 3, 4):
            server.look(serving(revision))
            await heard(quick)
        assert [(await heard(slow)).name for _ in range(2)] == ["state", "revision"]
        assert await slow.next() is None


async def test_a_feed_that_nobody_hears_ends() -> None:
    async with watched() as server:
        listener = await server.feeds.listen("")
        first = await heard(listener)
        listener.end()
        feed = listener._feed
        server.look(serving(2))
        await feed._task
        server.look(serving(2))
        again = await heard(await server.feeds.listen(""))
        assert again.id.partition("-")[0] != first.id.partition("-")[0]


async def test_at_the_end_all_streams_end() -> None:
    async with watched() as server:
        listener = await server.feeds.listen("")
        await heard(listener)
        server.feeds.stop()
        assert await listener.next() is None


def test_an_event_is_lines() -> None:
    event = Event("a-1", "health", ServerState(1.5, is_well=False, fault="unavailable"))
    lines = event.encoded().decode().split("\n")
    assert lines[:2] == ["id: a-1", "event: health"]
    assert msgspec.json.decode(lines[2].removeprefix("data: "))["fault"] == "unavailable"
    assert lines[3:] == ["", ""]


def test_what_is_no_stream(fake: FakeClient) -> None:
    fake.answers[models.RECOMMEND_TEXT] = REFUSED
    with TestClient(App(fake.opened, AppOptions()), "http://localhost") as http:
        head = http.head("/v1/events")
        assert (head.status_code, head.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
        assert (http.get("/v1/events").status_code, http.post("/v1/events").status_code) == (401, 405)
    fake.answers[models.RECOMMEND_TEXT] = serving()
    with TestClient(App(fake.opened, AppOptions(most_listeners=0)), "http://localhost") as http:
        busy = http.get("/v1/events")
        assert (busy.status_code, busy.json()["kind"], busy.headers["retry-after"]) == (503, "unavailable", "1")
