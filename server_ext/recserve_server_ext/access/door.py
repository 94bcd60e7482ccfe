"""The door of a model: lets in requests with a key that has the scope they need. Independent of Triton."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from recserve_client.contract import ErrorKind, RequestError, models
from recserve_server_ext.access.key_file import read_keys, sha256_of_key
from recserve_server_ext.access.scopes import SCOPES_OF_MODEL, Scope, scope_of_interactions
from recserve_server_ext.common.errors import ConfigError

_log = logging.getLogger(__name__)
#: Longest value of the header that is looked at.
_MOST_BYTES: Final = 512
#: Longest parameters of a request that are looked at.
_MOST_PARAMETERS: Final = 64 * 1024
_SCHEME: Final = "bearer "


class _Parameters(msgspec.Struct):
    """The parameters of a request to Triton, which headers become."""

    authorization: str = ""


_parameters: Final = msgspec.json.Decoder(_Parameters)


class KeyRing:
    """The keys of a file, read again when it has changed; nobody has a key where it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._scopes: dict[str, frozenset[Scope]] = {}

    def scopes(self, key: str) -> frozenset[Scope] | None:
        """The scopes of a key; `None` for one that is not, or no longer, in the file."""
        if (now := self._state()) != self._seen:
            self._scopes = self._read()
            self._seen = now
        return self._scopes.get(sha256_of_key(key))

    def _state(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> dict[str, frozenset[Scope]]:
        try:
            return {key.sha256: frozenset(key.scopes) for key in read_keys(self._path)}
        except ConfigError as error:
            _log.error("no key is accepted: %s", error)
            return {}


class Door:
    """Checks the requests to one model."""

    def __init__(self, model: str, ring: KeyRing | None, own_key: str, warmups: int = 0) -> None:
        """
        Args:
            model: Name of the model, without a fingerprint.
            ring: The keys; `None` where none is asked for.
            own_key: Key of the server's own calls.
            warmups: Requests without a key that come before all others.
        """
        self._allowed = SCOPES_OF_MODEL.get(model, frozenset())
        self._scope_of = scope_of_interactions if model == models.INTERACTIONS else None
        self._ring = ring
        self._own_key = own_key.encode()
        self._warmups = warmups

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return self._ring is None

    def check(self, parameters: str, read: Callable[[], bytes]) -> None:
        """Let a request in.

        Args:
            parameters: Its parameters, as JSON.
            read: The packed request; read only where the scope depends on it.

        Raises:
            RequestError: unauthenticated or permission_denied; or what `read` raises, or the request is unreadable.
        """
        if self._ring is None:
            return
        key = _key_of(parameters)
        self._warmups -= 1
        if not key and self._warmups >= 0:
            return
        self._warmups = 0
        if key and hmac.compare_digest(key.encode(), self._own_key):
            return
        scopes = self._ring.scopes(key) if key else None
        if scopes is None:
            raise RequestError(ErrorKind.UNAUTHENTICATED, "a valid key is needed")
        if Scope.ADMIN in scopes:
            return
        held = self._allowed & scopes
        # Only a key with one scope of several is good for a part of the requests.
        if held and self._scope_of is not None and held != self._allowed:
            held &= {self._scope_of(read())}
        if not held:
            raise RequestError(ErrorKind.PERMISSION_DENIED, "the key has no scope for this")


def _key_of(parameters: str) -> str:
    """The key of the header `authorization`; empty without one."""
    if len(parameters) > _MOST_PARAMETERS:
        return ""
    try:
        header = _parameters.decode(parameters).authorization
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    if len(header) > _MOST_BYTES or header[: len(_SCHEME)].lower() != _SCHEME:
        return ""
    return header[len(_SCHEME) :].strip()


def bearer(key: str) -> str:
    """The header, or parameter, `authorization` of a key."""
    return f"Bearer {key}"
