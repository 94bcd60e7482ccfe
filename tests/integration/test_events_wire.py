"""Server-sent events of the HTTP API over a real Triton: changes, a server that dies and comes back, keys."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from recserve_client import Client, ClientOptions, NewItem
from recserve_server_ext.access.key_file import create_key, revoke_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.workspace import Workspace
from support.http_api import http_api
from support.keys import REQUIRED
from support.served import Served, served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
PATIENCE_S = 120.0


NamedData = tuple[str, dict[str, Any]]


class Heard(Iterator[NamedData]):
    """The events of a stream as they come, by name and data."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()
        self.last_id = ""

    def __next__(self) -> NamedData:
        found: dict[str, str] = {}
        while True:
            line = next(self._lines)
            name, _, value = line.partition(": ")
            if line:
                found[name] = value
            elif "data" in found:
                self.last_id = found["id"]
                return found["event"], json.loads(found["data"])

    def until(self, name: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The data of the first event of this name that is wanted."""
        return next(data for event, data in self if event == name and wanted(data))


@contextmanager
def stream(address: str, **headers: str) -> Iterator[Heard]:
    """Listen to the events."""
    url = f"http://{address}/v1/events"
    with httpx.stream("GET", url, headers=headers, timeout=PATIENCE_S, trust_env=False) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Heard(answer)


@pytest.fixture(scope="module")
def server(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of this module's own, which it may harm."""
    with served(copy_home(tiny_home, tmp_path_factory.mktemp("events") / "home")) as found:
        yield found


def test_changes_are_told_and_what_was_missed_is_told_later(server: Served) -> None:
    with http_api(server.grpc) as address, Client(server.grpc, ClientOptions(deadline_s=60)) as client:
        with stream(address) as heard:
            name, state = next(heard)
            assert (name, state["is_well"], state["fault"]) == ("state", True, "")
            assert all(state[field] for field in ("encoder", "revision", "snapshot"))
            with httpx.Client(base_url=f"http://{address}", trust_env=False) as http:
                assert http.post("/v1/recommend", json={"k": 0}).status_code == 400
            assert heard.until("refused", lambda of: "invalid_request" in of["refused"])
        with stream(address, **{"accept-encoding": "zstd"}) as other:
            next(other)
            changed = client.items.upsert([NewItem("events-1", {"title": "The Clockmaker's Comet"})]).revision
            other.until("revision", lambda of: of["revision"] == changed)
            with stream(address, **{"last-event-id": heard.last_id}) as again:
                assert again.until("revision", lambda of: of["revision"] == changed)
        with stream(address, **{"last-event-id": "0-7"}) as late:
            assert next(late)[0] == "state"


def test_a_server_that_dies_and_comes_back(server: Served) -> None:
    with http_api(server.grpc) as address, stream(address) as heard:
        assert next(heard)[1]["is_well"]
        server.triton().send_signal(signal.SIGKILL)
        gone = heard.until("health", lambda of: not of["is_well"])
        assert gone["fault"]
        assert gone["snapshot"]
        assert heard.until("health", lambda of: of["is_well"])["fault"] == ""


def test_an_api_that_stops_ends_its_streams(server: Served) -> None:
    with ExitStack() as after:
        with http_api(server.grpc) as address:
            heard = after.enter_context(stream(address))
            next(heard)
        assert list(heard) == []


def test_a_key_opens_the_stream_until_it_is_revoked(tiny_home: Path, tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    keys = Workspace(home).api_keys
    (_, kept), (_, other) = (
        create_key(keys, name, [scope]) for name, scope in (("a", Scope.ADMIN), ("b", Scope.ITEMS))
    )
    name, key = create_key(keys, "c", [Scope.RECOMMEND])
    with served(home, settings=REQUIRED) as server, http_api(server.grpc) as address:
        for given, status in (("", 401), (other, 403)):
            headers = {"x-api-key": given} if given else {}
            assert httpx.get(f"http://{address}/v1/events", headers=headers, trust_env=False).status_code == status
        with (
            stream(address, **{"x-api-key": kept}) as going_on,
            stream(address, authorization=f"Bearer {key}") as heard,
        ):
            assert next(heard)[1]["is_well"]
            next(going_on)
            revoke_key(keys, name)
            assert all(data["is_well"] for _, data in heard)
            with Client(server.grpc, ClientOptions(deadline_s=60), key=kept) as client:
                client.items.upsert([NewItem("events-1", {"title": "The Clockmaker's Comet"})])
            assert going_on.until("revision", lambda of: of["is_well"])


# --- more streams than are taken ---

STREAMS = 10_000
REQUESTS = (
    b"GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n",
    b"POST /v1/recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\n"
    b'transfer-encoding: chunked\r\n\r\n8\r\n{"k":0}\n\r\n',
)


async def _opened(address: str, request: bytes, connecting: asyncio.Semaphore) -> tuple[int, bytes, Any]:
    """Status and beginning of the answer to a request that is not ended, and the connection."""
    host, _, port = address.partition(":")
    async with connecting:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), head + await reader.read(65536), writer


async def _ten_thousand(address: str) -> list[tuple[int, bytes]]:
    connecting = asyncio.Semaphore(500)
    requests = [REQUESTS[number % len(REQUESTS)] for number in range(STREAMS)]
    found = await asyncio.gather(*(_opened(address, request, connecting) for request in requests))
    # All are open now, and who asks plainly is told that it lives.
    async with httpx.AsyncClient(base_url=f"http://{address}", timeout=PATIENCE_S, trust_env=False) as http:
        assert (await http.get("/v1/health/live")).status_code == 200
    for *_, writer in found:
        writer.close()
    return [(status, answer) for status, answer, _ in found]


def test_ten_thousand_streams_at_once_are_answered_or_refused(server: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < STREAMS + 500:
        pytest.skip(f"a process may open {hard:,} files here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with http_api(server.grpc) as address:
            found = asyncio.run(_ten_thousand(address))
            statuses = Counter(status for status, _ in found)
            assert set(statuses) == {200, 503}, statuses
            assert 100 <= statuses[200] <= 1024
            for status, answer in found:
                assert b"Traceback" not in answer
                if status == 503:
                    head, _, body = answer.partition(b"\r\n\r\n")
                    assert b"application/problem+json" in head
                    assert json.loads(body)["kind"] == "unavailable"
            with httpx.Client(base_url=f"http://{address}", timeout=PATIENCE_S, trust_env=False) as http:
                assert http.get("/v1/health/ready").status_code == 200
            with stream(address) as heard:
                assert next(heard)[1]["is_well"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
