"""`Client` and `AsyncClient`: the same methods, from one description of each call in `recserve_client.calls`."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, Protocol, Self, TypeVar

import grpc
from tritonclient.grpc import service_pb2_grpc

from recserve_client import calls, item_calls, many, user_calls
from recserve_client.calls import Call
from recserve_client.contract import RecommendRequest, Slate
from recserve_client.errors import DeadlineExceeded, RecserveError, StaleRevision, Unavailable, from_rpc
from recserve_client.options import ClientOptions

P = ParamSpec("P")
R = TypeVar("R")
DEFAULT_ADDRESS = "127.0.0.1:8001"


class _Runs(Protocol):
    def run(self, call: Call[R]) -> R: ...


class _RunsLater(Protocol):
    async def run(self, call: Call[R]) -> R: ...


def _blocking(build: Callable[P, Call[R]]) -> Callable[Concatenate[_Runs, P], R]:
    @functools.wraps(build)
    def method(self: _Runs, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.run(build(*args, **kwargs))

    return method


def _awaiting(build: Callable[P, Call[R]]) -> Callable[Concatenate[_RunsLater, P], Coroutine[Any, Any, R]]:
    @functools.wraps(build)
    async def method(self: _RunsLater, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self.run(build(*args, **kwargs))

    return method


class _Tries:
    """The tries of one call: how long each may take, and whether another one follows a failure."""

    def __init__(self, options: ClientOptions, deadline_s: float | None) -> None:
        self._end = time.monotonic() + (options.deadline_s if deadline_s is None else deadline_s)
        self._pauses = options.pauses()

    def left_s(self) -> float:
        """Seconds left.

        Raises:
            DeadlineExceeded: None are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded("the deadline passed before the call was sent", status="DEADLINE_EXCEEDED")
        return left

    def pause_after(self, error: grpc.RpcError) -> float:
        """The pause before the next try.

        Raises:
            RecserveError: There is none: the failure is final, the tries are used up, or no time is left.
        """
        failure = from_rpc(error)
        # What the server has waited for is not asked for again.
        is_passing = isinstance(failure, Unavailable) and not isinstance(failure, StaleRevision)
        pause = next(self._pauses, None) if is_passing else None
        if pause is None or time.monotonic() + pause >= self._end:
            raise failure from None
        return pause


class _Part:
    """Calls of one kind, made by a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, call: Call[R]) -> R:
        """See `Client.run`."""
        return self._client.run(call)


class _AsyncPart:
    """As `_Part`, for asyncio."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def run(self, call: Call[R]) -> R:
        """See `AsyncClient.run`."""
        return await self._client.run(call)


class Items(_Part):
    """The catalogue's items, as `Client.items`: changes are durable and served when a call returns."""

    upsert = _blocking(item_calls.upsert)
    delete = _blocking(item_calls.delete)
    get = _blocking(item_calls.get)
    list = _blocking(item_calls.page)


class AsyncItems(_AsyncPart):
    """As `Items`, for asyncio: every method is awaited."""

    upsert = _awaiting(item_calls.upsert)
    delete = _awaiting(item_calls.delete)
    get = _awaiting(item_calls.get)
    list = _awaiting(item_calls.page)


class Interactions(_Part):
    """What users did, as `Client.interactions`: durable when a call returns."""

    record = _blocking(user_calls.record)


class AsyncInteractions(_AsyncPart):
    """As `Interactions`, for asyncio: every method is awaited."""

    record = _awaiting(user_calls.record)


class Users(_Part):
    """What is held of a user, as `Client.users`."""

    history = _blocking(user_calls.history)
    export = _blocking(user_calls.export)
    erase = _blocking(user_calls.erase)
    verify_erasure = _blocking(user_calls.verify_erasure)


class AsyncUsers(_AsyncPart):
    """As `Users`, for asyncio: every method is awaited."""

    history = _awaiting(user_calls.history)
    export = _awaiting(user_calls.export)
    erase = _awaiting(user_calls.erase)
    verify_erasure = _awaiting(user_calls.verify_erasure)


class Client:
    """Calls a server and waits for its answers; safe to share between threads.

    ::

        with Client("127.0.0.1:8001") as client:
            slate = client.recommend([item("tt0076759"), text("space opera")], k=5)
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, options: ClientOptions | None = None) -> None:
        """Prepare a connection; it is made with the first call.

        Args:
            address: host:port of the server's gRPC.
            options: How to connect, wait and try again.
        """
        self._options = options or ClientOptions()
        channel_options, credentials = self._options.channel(), self._options.credentials
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options=channel_options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options=channel_options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.items = Items(self)
        self.interactions = Interactions(self)
        self.users = Users(self)

    recommend = _blocking(calls.recommend)
    similar = _blocking(calls.similar)
    recommend_for = _blocking(user_calls.recommend_for)
    recommend_text = _blocking(calls.recommend_text)
    embed = _blocking(calls.embed)
    ready = _blocking(calls.ready)
    server_info = _blocking(calls.server_info)

    def run(self, call: Call[R]) -> R:
        """Make a call, trying again where that is safe."""
        try:
            return self._answer(call)
        except RecserveError as error:
            return call.settled(error)

    def recommend_many(
        self, requests: Sequence[RecommendRequest], *, deadline_s: float | None = None
    ) -> list[Slate | RecserveError]:
        """Make many requests at once; each has its slate or its error, in their order.

        Args:
            requests: Any number; at most 64 are on their way at a time.
            deadline_s: For all tries of one request.
        """
        if not requests:
            return []

        def settle(step: Callable[[], Slate]) -> Slate | RecserveError:
            try:
                return step()
            except RecserveError as error:
                return error

        with ThreadPoolExecutor(min(many.AT_ONCE, len(requests)), thread_name_prefix="recommend") as pool:
            return list(pool.map(settle, many.steps(requests, deadline_s, self.run)))

    def _answer(self, call: Call[R]) -> R:
        tries = _Tries(self._options, call.deadline_s)
        while True:
            send = getattr(self._stub, call.method)
            try:
                answer = send(call.request, timeout=tries.left_s())
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
    """As `Client`, for asyncio: every method is awaited.

    ::

        async with AsyncClient("127.0.0.1:8001") as client:
            slate = await client.recommend([item("tt0076759")], k=5)
    """

    def __init__(self, address: str = DEFAULT_ADDRESS, options: ClientOptions | None = None) -> None:
        """Prepare a connection, inside a running event loop; it is made with the first call.

        Args:
            address: host:port of the server's gRPC.
            options: How to connect, wait and try again.
        """
        self._options = options or ClientOptions()
        channel_options, credentials = self._options.channel(), self._options.credentials
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options=channel_options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options=channel_options)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self.items = AsyncItems(self)
        self.interactions = AsyncInteractions(self)
        self.users = AsyncUsers(self)

    recommend = _awaiting(calls.recommend)
    similar = _awaiting(calls.similar)
    recommend_for = _awaiting(user_calls.recommend_for)
    recommend_text = _awaiting(calls.recommend_text)
    embed = _awaiting(calls.embed)
    ready = _awaiting(calls.ready)
    server_info = _awaiting(calls.server_info)

    async def run(self, call: Call[R]) -> R:
        """Make a call, trying again where that is safe."""
        try:
            return await self._answer(call)
        except RecserveError as error:
            return call.settled(error)

    async def recommend_many(
        self, requests: Sequence[RecommendRequest], *, deadline_s: float | None = None
    ) -> list[Slate | RecserveError]:
        """Make many requests at once; each has its slate or its error, in their order.

        Args:
            requests: Any number; at most 64 are on their way at a time.
            deadline_s: For all tries of one request.
        """
        places = asyncio.Semaphore(many.AT_ONCE)

        async def settle(step: Callable[[], Coroutine[Any, Any, Slate]]) -> Slate | RecserveError:
            async with places:
                try:
                    return await step()
                except RecserveError as error:
                    return error

        return await asyncio.gather(*map(settle, many.steps(requests, deadline_s, self.run)))

    async def _answer(self, call: Call[R]) -> R:
        tries = _Tries(self._options, call.deadline_s)
        while True:
            send = getattr(self._stub, call.method)
            try:
                answer = await send(call.request, timeout=tries.left_s())
            except grpc.RpcError as error:
                await asyncio.sleep(tries.pause_after(error))
                continue
            result = call.read(answer)
            if not isinstance(result, Call):
                return result
            call = result

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
