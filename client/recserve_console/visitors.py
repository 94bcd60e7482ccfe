"""Who looks at the console: sessions of people who showed an API key, and what their keys are good for."""

from __future__ import annotations

import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from recserve_server_ext.access.key_file import ApiKey, read_keys, sha256_of_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.followed_file import FollowedFile

#: Sessions that are kept, and how long each lasts.
_MOST: Final = 1000
SESSION_S: Final = 12 * 3600
_LONGEST_KEY: Final = 512
_TOKEN_BYTES: Final = 32


class NotAllowedError(ValueError):
    """The visitor's key does not have the scope of what was asked."""


class _Session(NamedTuple):
    key_id: str
    until_s: float


class Sessions:
    """Sessions by their tokens, in memory alone: they end with the console, and with their key."""

    def __init__(self, key_file: Path | None, *, is_local: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            key_file: File of the API keys, which is followed; `None` without one.
            is_local: Whether only this machine reaches the console: then everybody may look, and change things where
                there are no keys.
            clock: Seconds that pass.

        Raises:
            ConfigError: The file cannot be used.
        """
        self._keys = None if key_file is None else FollowedFile(key_file, read_keys)
        self.is_local = is_local
        self._clock = clock
        self._sessions: OrderedDict[str, _Session] = OrderedDict()

    @property
    def asks_for_keys(self) -> bool:
        """Whether a key is needed for anything."""
        return not self.is_local or self.has_keys

    @property
    def has_keys(self) -> bool:
        """Whether there is a key that somebody could show."""
        return bool(self._found())

    def log_in(self, key: str) -> str | None:
        """The token of a new session; `None` where the key is not valid."""
        if len(key) > _LONGEST_KEY:
            return None
        digest = sha256_of_key(key)
        found = next((one for one in self._found() if hmac.compare_digest(one.sha256, digest)), None)
        if found is None:
            return None
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._sessions[token] = _Session(found.id, self._clock() + SESSION_S)
        if len(self._sessions) > _MOST:
            self._sessions.popitem(last=False)
        return token

    def log_out(self, token: str) -> None:
        """End a session."""
        self._sessions.pop(token, None)

    def key_of(self, token: str) -> ApiKey | None:
        """The key of a session; `None` where the session or the key has ended."""
        session = self._sessions.get(token)
        if session is None or self._clock() > session.until_s:
            return None
        return next((key for key in self._found() if key.id == session.key_id), None)

    def _found(self) -> list[ApiKey]:
        return [] if self._keys is None else self._keys.content()


@dataclass(frozen=True)
class Visitor:
    """One who looks at a page.

    Attributes:
        sessions: All sessions.
        token: Token of the visitor's; empty without.
    """

    sessions: Sessions
    token: str = ""

    @property
    def key(self) -> ApiKey | None:
        """The key that the visitor showed, while it is valid."""
        return self.sessions.key_of(self.token)

    @property
    def name(self) -> str:
        """Id of the key, for the audit log; empty without one."""
        key = self.key
        return "" if key is None else key.id

    def may_look(self, scope: Scope) -> bool:
        """Whether the visitor may see what needs a scope: on this machine everybody may."""
        return self.sessions.is_local or self._has(scope)

    def may_change(self, scope: Scope) -> bool:
        """Whether the visitor may change what needs a scope."""
        return not self.sessions.asks_for_keys or self._has(scope)

    def _has(self, scope: Scope) -> bool:
        key = self.key
        return key is not None and (scope in key.scopes or Scope.ADMIN in key.scopes)
