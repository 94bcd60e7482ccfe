"""Pseudonyms: what stands for a user wherever something is stored; user ids themselves are never written down."""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from collections.abc import Iterator
from typing import Final

from recserve_server_ext.common.errors import ConfigError, UserIdError

#: Of a user id, in characters.
MAX_USER_ID_LENGTH: Final = 256
_KEY_BYTES: Final = 32
_HALF: Final = 16
_ROUNDS: Final = 4
_PSEUDONYM: Final = re.compile(r"[0-9a-f]{64}")


class Pseudonyms:
    """Makes pseudonyms by a ring of keys, the oldest first.

    The pseudonym under the first key is HMAC-SHA256(key, user id in UTF-8), as 64 hexadecimal digits (RFC 2104). Every
    further key permutes what the one before it made, as a block of 256 bits: a Feistel network of four rounds over
    halves of 128 bits, round n being the first half of HMAC-SHA256(key, "\\0stage", n, half), which is a strong
    pseudorandom permutation (Luby and Rackoff, 1988). So a store can be brought to a new key without any user id, and
    with the ring, and only with it, a pseudonym tells what it was before.

    The same user has the same pseudonym under one ring only; without its keys a pseudonym cannot be tried against
    known user ids. Who loses one cannot find a user again.
    """

    def __init__(self, *keys: bytes) -> None:
        """
        Args:
            keys: One or more, each at least 32 random bytes.

        Raises:
            ConfigError: There is none, one is shorter, or is there twice.
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
        #: Tells this ring from any other, and says nothing of its keys.
        self.fingerprint = fingerprint.hex()[:32]

    @property
    def rotations(self) -> int:
        """Keys after the first."""
        return len(self._keys) - 1

    def of(self, user_id: str) -> str:
        """The pseudonym of a user.

        Raises:
            UserIdError: The id is empty, too long, not in Unicode's form NFC, or holds NUL or what UTF-8 cannot carry.
        """
        return self._forward(hmac.digest(self._keys[0], _checked(user_id), hashlib.sha256)).hex()

    def sign(self, content: bytes) -> str:
        """HMAC-SHA256 of content by a key derived from the newest one, so that no signature is a pseudonym."""
        derived = hmac.digest(self._keys[-1], b"\0signatures", hashlib.sha256)  # no user id holds NUL
        return hmac.digest(derived, content, hashlib.sha256).hex()

    def with_key(self, key: bytes) -> Pseudonyms:
        """The ring with one key more.

        Raises:
            ConfigError: It is too short, or there already.
        """
        return Pseudonyms(*self._keys, key)

    def first(self, count: int) -> Pseudonyms:
        """The ring of its first keys."""
        return Pseudonyms(*self._keys[:count])

    def at(self, fingerprint: str) -> Pseudonyms | None:
        """The ring of its first keys that has this fingerprint; none = there is none."""
        rings = map(self.first, range(len(self._keys), 0, -1))
        return next((ring for ring in rings if ring.fingerprint == fingerprint), None)

    def renewed(self, value: str) -> str:
        """A pseudonym, or the mark of a tombstone, of the ring without its newest key, under this one."""
        return _permuted(self._keys[-1], bytes.fromhex(value)).hex()

    def stages(self, pseudonym: str) -> Iterator[tuple[Pseudonyms, str]]:
        """Every ring that was in force with the pseudonym that the user had under it, newest first."""
        ring, block = self, bytes.fromhex(pseudonym)
        while True:
            yield ring, block.hex()
            if not ring.rotations:
                return
            block = _restored(ring._keys[-1], block)
            ring = ring.first(ring.rotations)

    def origin(self, pseudonym: str) -> str:
        """The pseudonym that the user had under the first key: no rotation changes it, and it is not to be stored."""
        block = bytes.fromhex(pseudonym)
        for key in reversed(self._keys[1:]):
            block = _restored(key, block)
        return block.hex()

    def tombstone(self, pseudonym: str) -> str:
        """The mark of the user's tombstone under this ring: `tombstone_mark` of the origin, permuted by every key."""
        return self._forward(bytes.fromhex(tombstone_mark(self.origin(pseudonym)))).hex()

    def _forward(self, block: bytes) -> bytes:
        for key in self._keys[1:]:
            block = _permuted(key, block)
        return block


def tombstone_mark(pseudonym: str) -> str:
    """What a tombstone remembers of a user: a keyed hash that needs the pseudonym, so the key of the pseudonyms."""
    return hmac.digest(pseudonym.encode(), b"recserve tombstone", hashlib.sha256).hex()


def is_pseudonym(text: object) -> bool:
    """Whether it has the form of a pseudonym."""
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


def _permuted(key: bytes, block: bytes) -> bytes:
    left, right = block[:_HALF], block[_HALF:]
    for number in range(_ROUNDS):
        left, right = right, _added(left, _round(key, number, right))
    return left + right


def _restored(key: bytes, block: bytes) -> bytes:
    left, right = block[:_HALF], block[_HALF:]
    for number in reversed(range(_ROUNDS)):
        left, right = _added(right, _round(key, number, left)), left
    return left + right


def _round(key: bytes, number: int, half: bytes) -> bytes:
    return hmac.digest(key, b"\0stage%d" % number + half, hashlib.sha256)[:_HALF]


def _added(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(_HALF, "big")
