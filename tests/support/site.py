"""All that stands around a server that is reached from outside: keys, the HTTP API, and the gateway before both."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx

from recserve_client import Client, ClientOptions, Tls
from support.certificates import Authority
from support.gateway import gateway
from support.http_api import http_api
from support.keys import REQUIRED, keys_of
from support.served import Served, served

PATIENT = ClientOptions(deadline_s=30)


class Site(NamedTuple):
    """All that stands behind a gateway.

    Attributes:
        address: host:port of the gateway.
        server: The server.
        http: host:port of the HTTP API behind it.
        keys: A key for each scope.
        authority: Signed the certificate of the gateway.
    """

    address: str
    server: Served
    http: str
    keys: dict[str, str]
    authority: Authority

    @property
    def tls(self) -> Tls:
        """TLS of callers."""
        return Tls(ca=self.authority.cert)

    def client(self, scope: str = "", options: ClientOptions = PATIENT) -> Client:
        """A client with the key of a scope, or without one."""
        return Client(self.address, options, tls=self.tls, key=self.keys.get(scope, scope))

    def channel(self, **options: Any) -> Any:
        """A channel without a key."""
        return grpc.secure_channel(self.address, self.tls.credentials(), options=list(options.items()))

    def caller(self, **headers: str) -> httpx.Client:
        """An HTTP caller."""
        return caller(self.address, self.authority, **headers)


def caller(address: str, authority: Authority, **headers: str) -> httpx.Client:
    """An HTTP caller of a gateway."""
    trusting = ssl.create_default_context(cafile=str(authority.cert))
    return httpx.Client(base_url=f"https://{address}", verify=trusting, headers=headers, timeout=30, trust_env=False)


@contextmanager
def open_site(home: Path) -> Iterator[Site]:
    """Serve a home, which gets keys, behind a gateway with wide limits."""
    keys, authority = keys_of(home), Authority(home.parent, "ours")
    with ExitStack() as stack:
        server = stack.enter_context(served(home, settings=REQUIRED))
        http = stack.enter_context(http_api(server.grpc))
        address = stack.enter_context(gateway(server, http, authority, rate=10_000, burst=10_000))
        yield Site(address, server, http, keys, authority)
