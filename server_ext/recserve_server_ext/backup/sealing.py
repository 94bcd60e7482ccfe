"""What a backup is named and sealed by: nothing, or a key.

The construction is that of BorgBackup's repositories (its documentation, "Security", "Encryption"): a block is named
by a keyed hash of its content and encrypted on its own, and the list of the blocks is authenticated. So no block can
be changed, cut, dropped, moved or taken from another backup unnoticed. The cipher is AES-256-GCM-SIV (RFC 8452), with
the beginning of the name as the nonce and the name as associated data. Equal blocks have equal ciphertexts, as they
have equal names: a block that got lost is written again by the next backup as it was. The keys of the purposes are
made by HKDF-SHA256 (RFC 5869).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from recserve_server_ext.common.errors import BackupError

#: Environment variable with the key, in place of a file.
KEY_VARIABLE: Final = "RECSERVE_BACKUP_KEY"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


class Plain:
    """Without a key: blocks are named by their SHA-256 and stored as they are.

    Attributes:
        fingerprint: Tells a key from any other and reveals nothing of it; empty without a key.
        overhead: By how many bytes a stored block is longer.
    """

    fingerprint: str = ""
    overhead: int = 0

    def name(self, content: bytes) -> str:
        """The name of a block, 64 hexadecimal digits."""
        return hashlib.sha256(content).hexdigest()

    def seal(self, name: str, content: bytes) -> bytes:
        """What is stored of a block."""
        return content

    def unseal(self, name: str, stored: bytes) -> bytes:
        """The content of a stored block; raises BackupError where it was changed."""
        if self.name(stored) != name:
            raise BackupError(f"the block {name[:12]} is damaged")
        return stored

    def sign(self, content: bytes) -> str:
        """The checksum of a manifest; with a key only who has it can make one."""
        return hashlib.sha256(content).hexdigest()


class Sealed(Plain):
    """With a key: blocks are encrypted, their names and the checksum of the manifest are keyed hashes."""

    overhead = _TAG_BYTES

    def __init__(self, key: bytes) -> None:
        """
        Args:
            key: 32 random bytes.
        """
        if len(key) != _KEY_BYTES:
            raise BackupError(f"the key of a backup has {len(key)} bytes; it must have {_KEY_BYTES}")
        self.fingerprint = _derived(key, "fingerprint").hex()[:16]
        self._names = _derived(key, "names")
        self._manifests = _derived(key, "manifests")
        self._cipher = AESGCMSIV(_derived(key, "blocks"))

    def name(self, content: bytes) -> str:
        """HMAC-SHA256 of the content."""
        return hmac.digest(self._names, content, hashlib.sha256).hex()

    def seal(self, name: str, content: bytes) -> bytes:
        """Ciphertext and tag."""
        return self._cipher.encrypt(_nonce(name), content, name.encode())

    def unseal(self, name: str, stored: bytes) -> bytes:
        """The decrypted content; raises BackupError where it, or its name, was changed."""
        try:
            return self._cipher.decrypt(_nonce(name), stored, name.encode())
        except (InvalidTag, ValueError):
            raise BackupError(f"the block {name[:12]} is damaged") from None

    def sign(self, content: bytes) -> str:
        """HMAC-SHA256 of the content."""
        return hmac.digest(self._manifests, content, hashlib.sha256).hex()


def sealing_by(path: Path | None, environment: Mapping[str, str] | None = None) -> Plain:
    """The key of a file or else of the environment variable; without both, none.

    Args:
        path: File of 64 hexadecimal digits that only its owner reads.
        environment: Read instead of the environment of the process.

    Raises:
        BackupError: The key is malformed, others can read the file, or it cannot be read.
    """
    what = f"the environment variable {KEY_VARIABLE}" if path is None else f"the key {path}"
    given = (os.environ if environment is None else environment).get(KEY_VARIABLE) if path is None else None
    if path is not None:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            given = path.read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise BackupError(f"{what} cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if mode & 0o077:
            raise BackupError(f"{what} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    if given is None:
        return Plain()
    try:
        key = bytes.fromhex(given.strip())
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise BackupError(f"{what} is not {2 * _KEY_BYTES} hexadecimal digits; make one with: openssl rand -hex 32")
    return Sealed(key)


def _nonce(name: str) -> bytes:
    return bytes.fromhex(name)[:_NONCE_BYTES]


def _derived(key: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=f"recserve backup 1 {purpose}".encode()).derive(key)
