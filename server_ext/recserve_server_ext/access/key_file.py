"""The file of API keys. It holds their SHA-256: a key itself is shown once, when it is made.

A key has 256 random bits, so a plain hash cannot be reversed by trying, and needs no salt and no slow function.
"""

from __future__ import annotations

import hashlib
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from recserve_client.contract import shown
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import change_json, reading

#: Begins every key, so that scanners of repositories and logs find one that leaked.
PREFIX: Final = "rsk_"
_RANDOM_BYTES: Final = 32
_ID_BYTES: Final = 4
_MOST_KEYS: Final = 10_000
_MOST_NAME: Final = 128
_ADVICE: Final = "restore it, or make new keys with: recserve keys create"


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept of a key.

    Attributes:
        id: Names it in commands; no secret.
        name: What it is for.
        scopes: What it is good for.
        created_at: Seconds since 1970.
        sha256: Hex SHA-256 of the key.
    """

    id: str
    name: str
    scopes: Annotated[list[Scope], Meta(min_length=1)]
    created_at: float
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class _Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[ApiKey] = []


def sha256_of_key(key: str) -> str:
    """Hex SHA-256 of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file, none where it is missing; raises ConfigError where others can change it, or it is damaged."""
    with reading(path, ConfigError, _ADVICE):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            content = path.read_bytes()
        except FileNotFoundError:
            return []
        keys = msgspec.json.decode(content, type=_Keys).keys
    if mode & 0o022:
        raise ConfigError(f"{path} can be changed by others (mode {mode:04o}); run: chmod 600 {path}")
    return keys


def create_key(path: Path, name: str, scopes: Sequence[Scope], now: Callable[[], float] = time.time) -> tuple[str, str]:
    """Make a key; its id and the key itself.

    Raises:
        ConfigError: The name is empty or too long, there are too many keys, or the file cannot be read or written.
    """
    if not 1 <= len(name) <= _MOST_NAME or not name.isprintable():
        raise ConfigError(f"the name {shown(name)} must have 1 to {_MOST_NAME} printable characters")
    key = PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)
    made = ApiKey(secrets.token_hex(_ID_BYTES), name, sorted(set(scopes)), now(), sha256_of_key(key))

    def add(keys: list[ApiKey]) -> list[ApiKey]:
        if len(keys) >= _MOST_KEYS:
            raise ConfigError(f"{path} has {len(keys):,} keys, the most that are allowed; revoke some")
        return [*keys, made]

    _change(path, add)
    return made.id, key


def revoke_key(path: Path, key_id: str) -> ApiKey:
    """Remove a key, which was good until now; raises ConfigError where there is none of this id."""
    gone: list[ApiKey] = []

    def remove(keys: list[ApiKey]) -> list[ApiKey]:
        gone.extend(key for key in keys if key.id == key_id)
        if not gone:
            raise ConfigError(f"there is no key {shown(key_id)} in {path}; see: recserve keys list")
        return [key for key in keys if key.id != key_id]

    _change(path, remove)
    return gone[0]


def _change(path: Path, change: Callable[[list[ApiKey]], list[ApiKey]]) -> None:
    change_json(path, lambda: _Keys(change(read_keys(path))), ConfigError, mode=0o600)
