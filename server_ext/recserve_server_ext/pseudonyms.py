"""Pseudonyms: what stands for a user wherever something is stored; user ids themselves are never written down."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import stat
import unicodedata
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from recserve_server_ext.durable import fsync_path
from recserve_server_ext.errors import ConfigError, UserIdError

#: Of a user id, in characters.
MAX_USER_ID_LENGTH: Final = 256
#: Names the environment variable with the key, as at least 64 hexadecimal digits.
KEY_VARIABLE: Final = "RECSERVE_PSEUDONYM_KEY"
_KEY_BYTES: Final = 32
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{64}")


class Pseudonyms:
    """Makes pseudonyms: HMAC-SHA256(key, user id in UTF-8), as 64 hexadecimal digits (RFC 2104).

    The same user has the same pseudonym under one key only; without the key a pseudonym cannot be tried against
    known user ids. Who loses the key cannot find a user again.
    """

    def __init__(self, key: bytes) -> None:
        """
        Args:
            key: At least 32 random bytes.

        Raises:
            ConfigError: It is shorter.
        """
        if len(key) < _KEY_BYTES:
            raise ConfigError(f"the key for pseudonyms has {len(key)} bytes; it must have at least {_KEY_BYTES}")
        self._key = key

    def of(self, user_id: str) -> str:
        """The pseudonym of a user.

        Raises:
            UserIdError: The id is empty, too long, not in Unicode's form NFC, or holds NUL or what UTF-8 cannot carry.
        """
        return hmac.digest(self._key, _checked(user_id), hashlib.sha256).hex()

    def sign(self, content: bytes) -> str:
        """HMAC-SHA256 of content by a key derived from this one, so that no signature is a pseudonym."""
        derived = hmac.digest(self._key, b"\0signatures", hashlib.sha256)  # no user id holds NUL
        return hmac.digest(derived, content, hashlib.sha256).hex()


def is_pseudonym(text: object) -> bool:
    """Whether it has the form of a pseudonym."""
    return isinstance(text, str) and _PSEUDONYM.fullmatch(text) is not None


def read_pseudonyms(path: Path, environment: Mapping[str, str] | None = None) -> Pseudonyms:
    """Pseudonyms by the key of the environment variable, or of the file, which is made with a new key if need be.

    Args:
        path: Key file, 64 hexadecimal digits; made with mode 0600.
        environment: In place of the environment of the process.

    Raises:
        ConfigError: The key is not one, the file is readable by others, or cannot be read or made.
    """
    given = (os.environ if environment is None else environment).get(KEY_VARIABLE)
    if given is not None:
        return Pseudonyms(_decoded(given, f"the environment variable {KEY_VARIABLE}"))
    try:
        if not path.exists():
            _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"the key {path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
        return Pseudonyms(_decoded(path.read_text("ascii"), f"the key {path}"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key {path} cannot be read or made: {error}") from error


def _checked(user_id: str) -> bytes:
    if not isinstance(user_id, str):
        raise UserIdError(f"a user id must be a string, not {type(user_id).__name__}")
    if not user_id:
        raise UserIdError("a user id is empty")
    if len(user_id) > MAX_USER_ID_LENGTH:
        raise UserIdError(f"a user id has {len(user_id)} characters; at most {MAX_USER_ID_LENGTH} are allowed")
    if "\0" in user_id:
        raise UserIdError("a user id holds the character NUL")
    if not unicodedata.is_normalized("NFC", user_id):
        raise UserIdError("a user id is not in Unicode's form NFC; normalise it first, so that one user has one id")
    try:
        return user_id.encode()
    except UnicodeEncodeError:
        # The error itself holds the id, so it is not chained.
        raise UserIdError("a user id holds a lone surrogate, which UTF-8 cannot carry") from None


def _decoded(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text.strip())
    except ValueError:
        raise ConfigError(
            f"{what} is not hexadecimal; it must hold at least {2 * _KEY_BYTES} hexadecimal digits"
        ) from None


def _make(path: Path) -> None:
    """Write a new key, unless another process was faster: then its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_KEY_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # A link, and not a rename, since it fails when the name is taken.
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)
