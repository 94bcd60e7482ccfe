"""Runs an ASGI application by uvicorn on a socket that is bound beforehand."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvicorn


class _Server(uvicorn.Server):
    """uvicorn that tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def bind(family: int, kind: int, address: Any) -> socket.socket:
    """A socket that is bound to a resolved address; raises OSError where that is taken or not of this machine."""
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def run(app: Any, bound: socket.socket, on_ready: Callable[[], None], *, drain_s: int, **more: Any) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        app: An ASGI application, whose lifespan counts.
        bound: Where to listen.
        on_ready: Called when it listens.
        drain_s: Seconds that requests under way have to end when the program is told to stop.
        more: Further settings of uvicorn.
    """
    # uvicorn stops by its own handlers, then raises the signal once more for those that were there before.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    config = uvicorn.Config(
        app,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=drain_s,
        **more,
    )
    _Server(config, on_ready).run(sockets=[bound])
