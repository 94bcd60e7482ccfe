"""Reads of the home that take long, in processes of their own, so that the pages stay quick meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Final, Generic, NamedTuple, TypeVar

from recserve_server_ext.common.errors import ServerError

T = TypeVar("T")
#: Reads at a time; others wait.
_AT_ONCE: Final = 2


class Read(NamedTuple, Generic[T]):
    """What was read.

    Attributes:
        found: The result.
        time_s: When it was read, in seconds since 1970.
    """

    found: T
    time_s: float


class Reads:
    """The reads of a console. Results are kept, so that who opens a view again sees at once what was read last."""

    def __init__(self) -> None:
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._free = asyncio.Semaphore(_AT_ONCE)

    async def newest(self, read: Callable[..., T], *args: Hashable) -> Read[T]:
        """What was read last, or else as of `again`."""
        task = self._tasks.get((read, args))
        if task is None or (task.done() and task.exception() is not None):
            return await self.again(read, *args)
        return await asyncio.shield(task)

    async def again(self, read: Callable[..., T], *args: Hashable) -> Read[T]:
        """Read now; a read that is under way is waited for. It goes on where nobody waits any more.

        Args:
            read: A function of a module; its arguments are hashable, and it raises ServerError or ExportError.
            args: Its arguments.

        Raises:
            ServerError: The read failed, or its process was ended.
            ExportError: The read failed.
        """
        key = (read, args)
        task = self._tasks.get(key)
        if task is None or task.done():
            task = self._tasks[key] = asyncio.create_task(self._read(read, *args))
        return await asyncio.shield(task)

    async def _read(self, read: Callable[..., T], *args: Any) -> Read[T]:
        async with self._free:
            return Read(await asyncio.to_thread(_in_process, read, *args), time.time())


def _in_process(read: Callable[..., T], *args: Any) -> T:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        try:
            return process.submit(read, *args).result()
        except BrokenProcessPool:
            raise ServerError("the process that read this was ended; try again") from None
