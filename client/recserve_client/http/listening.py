"""Runs an ASGI application by uvicorn on a socket that is bound beforehand, in plain text or over TLS."""

from __future__ import annotations

import logging
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import uvicorn

#: Ticks of uvicorn, ten a second, between two looks at the files of a certificate.
_LOOK_TICKS: Final = 300
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Certificate:
    """Files of a server's certificate, PEM; a renewed one is taken within half a minute.

    Attributes:
        cert: The certificate, with those between it and its authority.
        key: Its private key, without a password.
    """

    cert: Path
    key: Path

    @classmethod
    def of(cls, cert: Path | None, key: Path | None) -> Self | None:
        """The certificate of these files, `None` without any.

        Raises:
            ValueError: Only one is given, or they are no certificate with its key.
            OSError: A file cannot be read.
        """
        if cert is None and key is None:
            return None
        if cert is None or key is None:
            raise ValueError("a certificate needs its key, and the reverse: give --tls-cert and --tls-key")
        found = cls(cert, key)
        try:
            found.load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        except ssl.SSLError as error:
            raise ValueError(f"{cert} and {key} are no certificate with its key: {error.reason}") from None
        return found

    def load(self, context: ssl.SSLContext) -> None:
        """Use the files as they are now; raises OSError, of which ssl.SSLError is one."""
        context.load_cert_chain(self.cert, self.key, password="")

    @property
    def stamp(self) -> tuple[int, ...]:
        """Changes when a file changes; empty while one is missing."""
        try:
            return self.cert.stat().st_mtime_ns, self.key.stat().st_mtime_ns
        except OSError:
            return ()


class _Server(uvicorn.Server):
    """uvicorn that tells when it listens, and takes renewed certificates."""

    def __init__(
        self,
        config: uvicorn.Config,
        on_ready: Callable[[], None],
        on_stop: Callable[[], None],
        certificate: Certificate | None,
    ) -> None:
        super().__init__(config)
        self._on_ready, self._on_stop = on_ready, on_stop
        self._certificate = certificate
        self._stamp = () if certificate is None else certificate.stamp

    async def on_tick(self, counter: int) -> bool:
        if self._certificate is not None and counter % _LOOK_TICKS == 0:
            self._renew(self._certificate)
        return await super().on_tick(counter)

    def _renew(self, certificate: Certificate) -> None:
        """Use a certificate that was renewed for the connections that follow; a fault leaves the one before."""
        stamp = certificate.stamp
        if stamp in ((), self._stamp) or self.config.ssl is None:
            return
        self._stamp = stamp
        try:
            certificate.load(self.config.ssl)
        except OSError as error:
            _log.error("the certificate stays as it was: %s cannot be used: %s", certificate.cert, error)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound to an address; raises OSError where that is taken or not of this machine."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    bound = socket.socket(family, kind)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def run(
    app: Any,
    bound: socket.socket,
    on_ready: Callable[[], None],
    *,
    drain_s: int,
    on_stop: Callable[[], None] = lambda: None,
    certificate: Certificate | None = None,
    **more: Any,
) -> None:
    """Run until SIGTERM or SIGINT.

    Args:
        app: An ASGI application, whose lifespan counts.
        bound: Where to listen.
        on_ready: Called when it listens.
        drain_s: Seconds that requests under way have to end when the program is told to stop.
        on_stop: Called before it waits for these.
        certificate: For TLS; `None` for plain text.
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
        ssl_certfile=None if certificate is None else certificate.cert,
        ssl_keyfile=None if certificate is None else certificate.key,
        **more,
    )
    _Server(config, on_ready, on_stop, certificate).run(sockets=[bound])
