"""Pseudonyms, which stand for users in everything that is stored; user ids themselves are never written down."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from recserve_server_ext.common.errors import ConfigError, UserIdError, UserKeysError

#: Most characters of a user id.
MAX_USER_ID_LENGTH: Final = 256
_KEY_BYTES: Final = 32
_MADE_BYTES: Final = 32
#: By the first key, or by a later one, which adds 16 bytes.
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{64}(?:[0-9a-f]{32})?")


class Pseudonyms:
    """Makes pseudonyms by a ring of keys, the oldest first.

    The pseudonym under the first key is HMAC-SHA256(key, user id in UTF-8), in hexadecimal digits (RFC 2104). After a
    rotation it is these 32 bytes encrypted by AES-256-SIV (RFC 5297) with the key HMAC-SHA512(newest key,
    "\\0pseudonyms"). Equal texts have equal ciphertexts, so a store can be brought to a new key without any user id.

    A user has the same pseudonym under one ring only. Without the keys nobody can try known user ids against a
    pseudonym, and a lost key means that no user can be found again.

    Attributes:
        fingerprint: Tells this ring from any other, and reveals nothing of its keys.
    """

    def __init__(self, *keys: bytes) -> None:
        """
        Args:
            keys: At least one key, each of at least 32 random bytes.

        Raises:
            ConfigError: There is no key, or a key is shorter or stands twice.
        """
        for key in keys:
            if len(key) < _KEY_BYTES:
                raise ConfigError(f"the key for pseudonyms has {len(key)} bytes; it must have at least {_KEY_BYTES}")
        if not keys or len(set(keys)) < len(keys):
            raise ConfigError(f"{len(keys)} keys for pseudonyms; there must be at least one, and each once")
        self._keys = keys
        fingerprint = b""
        for key in keys:
            fingerprint = hmac.digest(key, b"\0fingerprint" + fingerprint, hashlib.sha256)
        self.fingerprint = fingerprint.hex()[:32]
        self._cipher = AESSIV(hmac.digest(keys[-1], b"\0pseudonyms", hashlib.sha512)) if len(keys) > 1 else None

    @property
    def rotations(self) -> int:
        """Number of keys after the first."""
        return len(self._keys) - 1

    def of(self, user_id: str) -> str:
        """The pseudonym of a user.

        Raises:
            UserIdError: The id is empty, too long, not in Unicode's form NFC, or holds NUL or what UTF-8 cannot carry.
        """
        return self._sealed(hmac.digest(self._keys[0], _checked(user_id), hashlib.sha256))

    def sign(self, content: bytes) -> str:
        """HMAC-SHA256 of content by a key derived from the newest key, so that no signature is a pseudonym."""
        derived = hmac.digest(self._keys[-1], b"\0signatures", hashlib.sha256)  # no user id holds NUL
        return hmac.digest(derived, content, hashlib.sha256).hex()

    def first(self, count: int) -> Pseudonyms:
        """The ring of the first keys."""
        return Pseudonyms(*self._keys[:count])

    def at(self, fingerprint: str) -> Pseudonyms | None:
        """The ring of the first keys that has this fingerprint, or `None`."""
        rings = map(self.first, range(len(self._keys), 0, -1))
        return next((ring for ring in rings if ring.fingerprint == fingerprint), None)

    def renewed(self, value: str, before: Pseudonyms) -> str:
        """A pseudonym, or the mark of a tombstone, under this ring.

        Args:
            value: The pseudonym or mark under the ring before.
            before: Another ring with the same first key.

        Raises:
            UserKeysError: The ring before did not make it.
        """
        return self._sealed(before._opened(value))

    def stages(self, pseudonym: str) -> Iterator[tuple[Pseudonyms, str]]:
        """Every ring that was in force, with the user's pseudonym under it, newest first."""
        made = self._opened(pseudonym)
        for ring in map(self.first, range(len(self._keys), 0, -1)):
            yield ring, ring._sealed(made)

    def origin(self, pseudonym: str) -> str:
        """The user's pseudonym under the first key: no rotation changes it. It must not be stored."""
        return self._opened(pseudonym).hex()

    def tombstone(self, pseudonym: str) -> str:
        """The mark of the user's tombstone under this ring: `tombstone_mark` of the origin, encrypted like a pseudonym.

        Raises:
            UserKeysError: This ring did not make the pseudonym.
        """
        return self._sealed(bytes.fromhex(tombstone_mark(self.origin(pseudonym))))

    def _sealed(self, made: bytes) -> str:
        """The pseudonym or mark under this ring, from the one under the first key."""
        return (made if self._cipher is None else self._cipher.encrypt(made, None)).hex()

    def _opened(self, value: str) -> bytes:
        """The pseudonym or mark under the first key."""
        sealed = bytes.fromhex(value)
        try:
            made = sealed if self._cipher is None else self._cipher.decrypt(sealed, None)
        except InvalidTag:
            made = b""
        if len(made) != _MADE_BYTES:
            raise UserKeysError(
                "a pseudonym was made by other keys than those in force; if it comes from a file that was exported "
                "before the key was rotated, export it again"
            )
        return made


def tombstone_mark(pseudonym: str) -> str:
    """The mark of a tombstone: a keyed hash that only the pseudonym, and so only the key, leads to."""
    return hmac.digest(pseudonym.encode(), b"recserve tombstone", hashlib.sha256).hex()


def is_pseudonym(text: object) -> bool:
    """Whether a value has the form of a pseudonym."""
    return isinstance(text, str) and _PSEUDONYM.fullmatch(text) is not None


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
