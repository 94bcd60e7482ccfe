"""Who may reach the console: pages of its own origin, by a known name on this machine, with a session from others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Final

from recserve_client.contract.addresses import is_this_machine
from recserve_console import login
from recserve_console.visitors import Sessions

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
    # Not no-referrer: browsers would send the form of the log-in without an origin.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
#: RFC 9110: the request was sent to a host that this server does not answer for.
_MISDIRECTED: Final = 421
_POLICY_VIOLATION: Final = 1008
_SEE_OTHER: Final = 303
_TO_LOGIN: Final = (b"location", login.PATH.encode())


class PublicAddressError(ValueError):
    """The console would be open to other machines without what that needs."""


def is_loopback(number: str) -> bool:
    """Whether only this machine reaches an address."""
    is_everywhere = number in ("0.0.0.0", "::")
    return not is_everywhere and is_this_machine(f"[{number}]" if ":" in number else f"{number}:0")


def check_public(host: str, *, has_tls: bool, has_keys: bool, insecure: bool) -> None:
    """Refuse an address that other machines can reach without TLS or keys.

    Args:
        host: As it was asked for, for the message.
        has_tls: Whether the console has a certificate.
        has_keys: Whether there is a key that somebody could show.
        insecure: Whether plain text is accepted; keys are asked for all the same.

    Raises:
        PublicAddressError: What is needed is missing.
    """
    if not has_keys:
        raise PublicAddressError(
            f"--host {host} can be reached from other machines, and there is no key that people could show; "
            "make one with: recserve keys create NAME --scope admin"
        )
    if not (has_tls or insecure):
        raise PublicAddressError(
            f"--host {host} can be reached from other machines, and keys would go there in plain text; give --tls-cert "
            "and --tls-key, come by: ssh -L 8090:127.0.0.1:8090 HOST, or accept that with --insecure"
        )


class Guard:
    """ASGI middleware: refuses other hosts and origins, asks for a session, and sets the security headers.

    A page of another site can make a browser send requests here. They carry that site's `Origin`, or, where its name
    was made to lead here, its `Host`. Such a page has no session either: the cookie belongs to another name.
    """

    def __init__(self, app: App, hosts: Iterable[str], sessions: Sessions, *, has_tls: bool = False) -> None:
        """
        Args:
            app: What is guarded.
            hosts: host:port that the console is reached by on this machine; other machines may know it by any name.
            sessions: Sessions of those who showed a key.
            has_tls: Whether the console is reached over TLS.
        """
        self._app = app
        self._hosts = frozenset(host.encode() for host in hosts)
        self._sessions = sessions
        self._has_tls = has_tls
        self._origin = b"https://" if has_tls else b"http://"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif (is_allowed := self._is_allowed(scope)) and self._is_known(scope):
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
        elif is_allowed:
            await send({"type": "http.response.start", "status": _SEE_OTHER, "headers": [*_HEADERS, _TO_LOGIN]})
            await send({"type": "http.response.body", "body": b"log in first\n"})
        else:
            await send({"type": "http.response.start", "status": _MISDIRECTED, "headers": [*_HEADERS]})
            await send({"type": "http.response.body", "body": b"this console answers its own pages only\n"})

    def _is_allowed(self, scope: Scope) -> bool:
        """Whether a request comes by a known name, from a page of its own or from no page."""
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        origins = [value for name, value in scope["headers"] if name == b"origin"]
        if len(hosts) != 1 or (self._sessions.is_local and hosts[0] not in self._hosts):
            return False
        return all(origin == self._origin + hosts[0] for origin in origins)

    def _is_known(self, scope: Scope) -> bool:
        """Whether who asks may look at anything, or asks for the page that begins a session."""
        if self._sessions.is_local or (scope["type"] == "http" and scope["path"] == login.PATH):
            return True
        cookies = "; ".join(value.decode("latin-1") for name, value in scope["headers"] if name == b"cookie")
        return self._sessions.key_of(login.token_of(cookies, has_tls=self._has_tls)) is not None


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *_HEADERS]
        await send(message)

    return sending
