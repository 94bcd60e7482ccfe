"""The tries of one call: its deadline, what is not sent to an overloaded server, and the pauses between retries."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
from tritonclient.grpc import service_pb2

from recserve_client.contract.addresses import proxy_in_the_way
from recserve_client.errors import DeadlineExceeded, Overloaded, StaleRevision, Unavailable, from_rpc
from recserve_client.options import ClientOptions
from recserve_client.throttle import RetryBudget, Throttle


class Tries:
    """The deadline and the retries of one call."""

    def __init__(
        self,
        address: str,
        options: ClientOptions,
        budget: RetryBudget,
        throttle: Throttle,
        deadline_s: float | None,
    ) -> None:
        """
        Args:
            address: Address of the server.
            options: Options of the client.
            budget: Retries of the client, of which the call earns a share.
            throttle: Calls of the client that are under way.
            deadline_s: Seconds until the call must be answered; those of the options for `None`.
        """
        self._throttle = throttle
        self._address = address
        self._options = options
        self._budget = budget
        budget.earn()
        self._end = time.monotonic() + (options.deadline_s if deadline_s is None else deadline_s)
        self._pauses = options.pauses()

    def place(self) -> int:
        """Begin to send a call, once it has a place among those under way; what `sending` takes.

        Raises:
            DeadlineExceeded: The deadline has passed.
            Overloaded: The server has so much to do that the call is not sent.
        """
        try:
            place = self._throttle.wait(self._left_s())
        except TimeoutError:
            raise _late() from None
        return place or _held_back()

    async def place_async(self) -> int:
        """See `place`."""
        try:
            place = await self._throttle.wait_async(self._left_s())
        except TimeoutError:
            raise _late() from None
        return place or _held_back()

    @contextmanager
    def sending(self, request: Any, place: int) -> Iterator[float]:
        """Count a call as under way; yields the seconds until the deadline, which the request tells the server too.

        Raises:
            DeadlineExceeded: The deadline has passed.
        """
        refused, start = False, time.monotonic()
        try:
            if (left := self._end - start) <= 0:
                raise _late()
            if isinstance(request, service_pb2.ModelInferRequest):
                request.parameters["timeout"].int64_param = math.ceil(left * 1e6)
            yield left
        except grpc.RpcError as error:
            refused = isinstance(from_rpc(error), Overloaded | DeadlineExceeded)
            raise
        finally:
            self._throttle.leave(place, time.monotonic() - start, refused=refused)

    def _left_s(self) -> float:
        if (left := self._end - time.monotonic()) <= 0:
            raise _late()
        return left

    def pause_after(self, error: grpc.RpcError) -> float:
        """Seconds to pause before the next try.

        Raises:
            RecserveError: The failure, where it is final, no try is left, or the deadline is too near.
        """
        failure = from_rpc(error)
        # The server has waited for a stale revision already.
        is_retryable = isinstance(failure, Unavailable) and not isinstance(failure, StaleRevision)
        pause = next(self._pauses, None) if is_retryable else None
        if pause is not None and isinstance(failure, Overloaded) and failure.retry_after_ms is not None:
            pause = self._options.pause_after(failure.retry_after_ms / 1000)
        if pause is None or time.monotonic() + pause >= self._end or not self._budget.spend():
            if isinstance(failure, Unavailable) and failure.kind is None and (name := proxy_in_the_way(self._address)):
                told = f"{failure.message}; the connection may go through the proxy of {name}: see no_proxy"
                raise Unavailable(told, status=failure.status) from None
            raise failure from None
        return pause


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the call was sent", status="DEADLINE_EXCEEDED")


def _held_back() -> NoReturn:
    raise Overloaded("not sent: the server refuses calls, having too much to do", status="UNAVAILABLE")
