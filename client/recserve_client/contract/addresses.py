"""gRPC addresses of this machine, and the proxies that connections to others go through."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Final

#: Where a server listens by default.
DEFAULT_ADDRESS: Final = "127.0.0.1:8001"
#: What gRPC may have before host:port, as in dns:///localhost:8001.
_SCHEME: Final = re.compile(r"^(?:dns|ipv4|ipv6|http|https|tcp):(?://[^/]*/|//)?")
#: Environment variables that gRPC takes a proxy from, the first that is set.
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")


def is_this_machine(address: str) -> bool:
    """Whether an address (host:port, with or without a scheme) is loopback or a wildcard."""
    host = _SCHEME.sub("", address, count=1)
    if host.startswith("unix:"):
        return True
    host = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    return found.is_loopback or found.is_unspecified


def channel_options(address: str) -> list[tuple[str, int]]:
    """Options of a gRPC channel to an address: connections to this machine ignore proxies, which gRPC does not."""
    return [("grpc.enable_http_proxy", 0)] if is_this_machine(address) else []


def proxy_in_the_way(address: str) -> str:
    """Name of the environment variable whose proxy a connection may go through; empty without one."""
    if is_this_machine(address):
        return ""
    return next((name for name in _PROXIES if os.environ.get(name)), "")
