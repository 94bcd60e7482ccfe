"""Runs the console by uvicorn."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from nicegui import ui

from recserve_client.api_key import key_from_environment
from recserve_client.client import AsyncClient
from recserve_client.http.listening import Certificate, run
from recserve_client.options import ClientOptions
from recserve_client.tls import Tls
from recserve_console.access import Guard, is_loopback
from recserve_console.console import Console
from recserve_console.login import add_login, cookie_name
from recserve_console.page import add_page
from recserve_console.visitors import Sessions
from recserve_server_ext.common.workspace import Workspace

#: Seconds that the browser tries to come back before the page is loaded anew.
_RECONNECT_S: Final = 10.0
_DRAIN_S: Final = 3
_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
#: Fails soon: a person waits, and is told.
_OPTIONS: Final = ClientOptions(deadline_s=5.0, tries=2)


def name_of(bound: socket.socket) -> str:
    """host:port of a socket, as it stands in a URL."""
    host, port = bound.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_local(bound: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return is_loopback(str(bound.getsockname()[0]))


def sessions_of(bound: socket.socket, home: Path | None) -> Sessions:
    """The sessions of a console at an address, by the API keys of its home; raises ConfigError for a damaged file."""
    return Sessions(None if home is None else Workspace(home).api_keys, is_local=is_local(bound))


def console_of(address: str, metrics: str, home: Path | None, sessions: Sessions) -> Console:
    """The state of a console, with TLS as the environment sets it.

    Args:
        address: host:port of the server's gRPC.
        metrics: host:port of its metrics.
        home: Its home, or `None`.
        sessions: Sessions of its visitors.

    Raises:
        OSError: A file of TLS cannot be read.
        ValueError: TLS is set only in part.
    """
    client = AsyncClient(address, _OPTIONS, tls=Tls.from_environment(), key=key_from_environment())
    return Console(client, address, metrics, home, sessions)


def serve(
    bound: socket.socket, console: Console, on_ready: Callable[[], None], certificate: Certificate | None = None
) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        bound: Where to listen.
        console: What is served.
        on_ready: Called when the console listens.
        certificate: For TLS; `None` for plain text.
    """
    app, has_tls = FastAPI(openapi_url=None), certificate is not None
    add_login(app, console.sessions, has_tls=has_tls)
    add_page(console, cookie_name(has_tls=has_tls))
    # dark=None follows the browser. Without a secret NiceGUI sets no cookies.
    ui.run_with(app, title="recserve", dark=None, reconnect_timeout=_RECONNECT_S, show_welcome_message=False)
    port = bound.getsockname()[1]
    hosts = {name_of(bound), *(f"{name}:{port}" for name in _NAMES)}
    guarded = Guard(app, hosts, console.sessions, has_tls=has_tls)

    def ready() -> None:
        # What was imported stays. A collection that looks through it all would hold every page for a tenth of a second.
        gc.collect()
        gc.freeze()
        on_ready()

    run(guarded, bound, ready, drain_s=_DRAIN_S, certificate=certificate)
