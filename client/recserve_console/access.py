"""Who may reach the console: programs of this machine, by its own name, and pages of its own origin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from recserve_client.contract.addresses import is_this_machine

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: NiceGUI's page has inline scripts and styles, and Vue compiles templates. Everything else is this origin alone, so no
#: request leaves the machine.
_POLICY: Final = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
_HEADERS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
#: RFC 9110: the request was sent to a host that this server does not answer for.
_MISDIRECTED: Final = 421
_POLICY_VIOLATION: Final = 1008


class PublicAddressError(ValueError):
    """The console would be open to other machines."""


def check_loopback(host: str, number: str) -> None:
    """Refuse an address that other machines can reach.

    Args:
        host: As it was asked for, for the message.
        number: The address that it stands for.

    Raises:
        PublicAddressError: The address is not loopback.
    """
    if number in ("0.0.0.0", "::") or not is_this_machine(f"[{number}]" if ":" in number else f"{number}:0"):
        raise PublicAddressError(
            f"--host {host} can be reached from other machines, and the console asks nobody who they are; "
            "listen on 127.0.0.1, and come from elsewhere by: ssh -L 8090:127.0.0.1:8090 HOST"
        )


class Guard:
    """ASGI middleware: refuses other hosts and origins, and sets the security headers.

    A page of another site can make a browser of this machine send requests here. They carry that site's `Origin`, or,
    where its name was made to lead here, its `Host`.
    """

    def __init__(self, app: App, hosts: Iterable[str]) -> None:
        """
        Args:
            app: What is guarded.
            hosts: host:port that the console is reached by.
        """
        self._app = app
        self._hosts = frozenset(host.encode() for host in hosts)
        self._origins = frozenset(b"http://" + host for host in self._hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif self._is_allowed(scope):
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        else:
            await send({"type": "http.response.start", "status": _MISDIRECTED, "headers": [*_HEADERS]})
            await send({"type": "http.response.body", "body": b"this console answers its own pages only\n"})

    def _is_allowed(self, scope: Scope) -> bool:
        """Whether a request comes by a known name, from a page of its own or from no page."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        return len(hosts) == 1 and hosts[0] in self._hosts and all(origin in self._origins for origin in origins)


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending
