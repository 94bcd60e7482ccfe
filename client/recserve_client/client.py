"""The sync `Client` and the asyncio `AsyncClient`: the same methods, described once in `recserve_client.calls`."""

from __future__ import annotations

import asyncio
import functools
import time
import weakref
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import grpc
from tritonclient.grpc import service_pb2_grpc

from recserve_client import calls, item_calls, server_calls, user_calls
from recserve_client.api_key import check_key, key_metadata
from recserve_client.calls import Call
from recserve_client.contract import RecommendRequest, Slate
from recserve_client.contract.addresses import DEFAULT_ADDRESS
from recserve_client.errors import RecserveError
from recserve_client.options import ClientOptions
from recserve_client.throttle import RetryBudget, Throttle
from recserve_client.tls import Tls, open_channel
from recserve_client.tries import Tries

P = ParamSpec("P")
R = TypeVar("R")
#: Concurrent requests of `recommend_many`; Triton makes batches of them.
MAX_CONCURRENT = 64


class _Runner(Protocol):
    def run(self, call: Call[R]) -> R: ...


class _AsyncRunner(Protocol):
    async def run(self, call: Call[R]) -> R: ...


def _blocking(build: Callable[P, Call[R]]) -> Callable[Concatenate[_Runner, P], R]:
    @functools.wraps(build)
    def method(self: _Runner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.run(build(*args, **kwargs))

    return method


def _awaiting(build: Callable[P, Call[R]]) -> Callable[Concatenate[_AsyncRunner, P], Coroutine[Any, Any, R]]:
    @functools.wraps(build)
    async def method(self: _AsyncRunner, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(build(*args, **kwargs))

    return method


class _Group:
    """A group of a client's methods."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, call: Call[R]) -> R:
        """See `Client.run`."""
        return self._client.run(call)


class _AsyncGroup:
    """A group of an asyncio client's methods."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def run(self, call: Call[R]) -> R:
        """See `AsyncClient.run`."""
        return await self._client.run(call)


class Items(_Group):
    """`Client.items`: changes and reads the catalogue. Changes are durable and served when a call returns."""

    upsert = _blocking(item_calls.upsert)
    delete = _blocking(item_calls.delete)
    get = _blocking(item_calls.get)
    list = _blocking(item_calls.page)


class AsyncItems(_AsyncGroup):
    """`AsyncClient.items`: see `Items`."""

    upsert = _awaiting(item_calls.upsert)
    delete = _awaiting(item_calls.delete)
    get = _awaiting(item_calls.get)
    list = _awaiting(item_calls.page)


class Interactions(_Group):
    """`Client.interactions`: records interactions. They are durable when a call returns."""

    record = _blocking(user_calls.record)


class AsyncInteractions(_AsyncGroup):
    """`AsyncClient.interactions`: see `Interactions`."""

    record = _awaiting(user_calls.record)


class Users(_Group):
    """`Client.users`: reads, exports and erases the data of a user."""

    history = _blocking(user_calls.history)
    export = _blocking(user_calls.export)
    erase = _blocking(user_calls.erase)
    verify_erasure = _blocking(user_calls.verify_erasure)


class AsyncUsers(_AsyncGroup):
    """`AsyncClient.users`: see `Users`."""

    history = _awaiting(user_calls.history)
    export = _awaiting(user_calls.export)
    erase = _awaiting(user_calls.erase)
    verify_erasure = _awaiting(user_calls.verify_erasure)


class Client:
    """A synchronous, thread-safe client of a recserve server.

    ::

        with Client("127.0.0.1:8001") as client:
            slate = client.recommend([item("tt0076759"), text("space opera")], k=5)
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        options: ClientOptions | None = None,
        *,
        tls: Tls | None = None,
        key: str = "",
    ) -> None:
        """Prepare a connection, which is opened by the first call.

        Args:
            address: host:port of the server's gRPC.
            options: Deadline, retries and connection.
            tls: TLS of the connection; `None` for plain text.
            key: API key, for a server that asks for one.

        Raises:
            OSError: A file of `tls` cannot be read.
            ValueError: The key has characters that no key has.
        """
        self._address, self._key = address, check_key(key)
        self._options = options or ClientOptions()
        self._budget, self._throttle = RetryBudget(self._options.retry_share), Throttle()
        self._channel = open_channel(grpc, address, self._options, tls)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.items = Items(self)
        self.interactions = Interactions(self)
        self.users = Users(self)

    recommend = _blocking(calls.recommend)
    similar = _blocking(calls.similar)
    recommend_for = _blocking(user_calls.recommend_for)
    recommend_text = _blocking(calls.recommend_text)
    embed = _blocking(calls.embed)
    ready = _blocking(server_calls.ready)
    server_info = _blocking(server_calls.server_info)
    strategies = _blocking(server_calls.strategies)

    def run(self, call: Call[R]) -> R:
        """Make a call, with retries where they are safe."""
        try:
            return self._answer(call)
        except RecserveError as error:
            return call.settled(error)

    def recommend_many(
        self, requests: Sequence[RecommendRequest], *, deadline_s: float | None = None
    ) -> list[Slate | RecserveError]:
        """Make many requests concurrently; the slate or the error of each, in order.

        Args:
            requests: Any number; at most 64 are made at a time.
            deadline_s: Seconds for all tries of one request.
        """
        if not requests:
            return []

        def settle(request: RecommendRequest) -> Slate | RecserveError:
            try:
                return self.run(calls.request(request, deadline_s=deadline_s))
            except RecserveError as error:
                return error

        with ThreadPoolExecutor(min(MAX_CONCURRENT, len(requests)), thread_name_prefix="recommend") as pool:
            return list(pool.map(settle, requests))

    def _answer(self, call: Call[R]) -> R:
        tries = Tries(self._address, self._options, self._budget, self._throttle, call.deadline_s)
        metadata = key_metadata(call.key or self._key)
        while True:
            send = getattr(self._stub, call.method)
            try:
                with tries.sending(call.request, tries.place()) as left_s:
                    answer = send(call.request, timeout=left_s, metadata=metadata)
            except grpc.RpcError as error:
                time.sleep(tries.pause_after(error))
                continue
            result = call.read(answer)
            if not isinstance(result, Call):
                return result
            call = result

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """An asyncio client of a recserve server; its methods are those of `Client`.

    ::

        async with AsyncClient("127.0.0.1:8001") as client:
            slate = await client.recommend([item("tt0076759")], k=5)
    """

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        options: ClientOptions | None = None,
        *,
        tls: Tls | None = None,
        key: str = "",
    ) -> None:
        """Prepare a client; the first call of each event loop opens a connection, so `asyncio.run` may come again.

        Args:
            address: host:port of the server's gRPC.
            options: Deadline, retries and connection.
            tls: TLS of the connection; `None` for plain text.
            key: API key, for a server that asks for one.

        Raises:
            OSError: A file of `tls` cannot be read.
            ValueError: The key has characters that no key has.
        """
        self._address, self._tls, self._key = address, tls, check_key(key)
        self._options = options or ClientOptions()
        self._budget, self._throttle = RetryBudget(self._options.retry_share), Throttle()
        #: A channel and its methods by event loop, since a channel of grpc.aio works in the one that made it.
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Any, Any]]
        self._connections = weakref.WeakKeyDictionary()
        self.items = AsyncItems(self)
        self.interactions = AsyncInteractions(self)
        self.users = AsyncUsers(self)

    recommend = _awaiting(calls.recommend)
    similar = _awaiting(calls.similar)
    recommend_for = _awaiting(user_calls.recommend_for)
    recommend_text = _awaiting(calls.recommend_text)
    embed = _awaiting(calls.embed)
    ready = _awaiting(server_calls.ready)
    server_info = _awaiting(server_calls.server_info)
    strategies = _awaiting(server_calls.strategies)

    async def run(self, call: Call[R]) -> R:
        """Make a call, with retries where they are safe."""
        try:
            return await self._answer(call)
        except RecserveError as error:
            return call.settled(error)

    async def recommend_many(
        self, requests: Sequence[RecommendRequest], *, deadline_s: float | None = None
    ) -> list[Slate | RecserveError]:
        """Make many requests concurrently; the slate or the error of each, in order.

        Args:
            requests: Any number; at most 64 are made at a time.
            deadline_s: Seconds for all tries of one request.
        """
        slots = asyncio.Semaphore(MAX_CONCURRENT)

        async def settle(request: RecommendRequest) -> Slate | RecserveError:
            async with slots:
                try:
                    return await self.run(calls.request(request, deadline_s=deadline_s))
                except RecserveError as error:
                    return error

        return await asyncio.gather(*map(settle, requests))

    async def _answer(self, call: Call[R]) -> R:
        tries = Tries(self._address, self._options, self._budget, self._throttle, call.deadline_s)
        metadata = key_metadata(call.key or self._key)
        stub = self._stub()
        while True:
            send = getattr(stub, call.method)
            try:
                with tries.sending(call.request, await tries.place_async()) as left_s:
                    answer = await send(call.request, timeout=left_s, metadata=metadata)
            except grpc.RpcError as error:
                await asyncio.sleep(tries.pause_after(error))
                continue
            result = call.read(answer)
            if not isinstance(result, Call):
                return result
            call = result

    def _stub(self) -> Any:
        """The methods of the running event loop's connection."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            channel = open_channel(grpc.aio, self._address, self._options, self._tls)
            connection = self._connections[loop] = (channel, service_pb2_grpc.GRPCInferenceServiceStub(channel))
        return connection[1]

    async def close(self) -> None:
        """Close the connection of the running event loop."""
        connection = self._connections.pop(asyncio.get_running_loop(), None)
        if connection is not None:
            await connection[0].close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
