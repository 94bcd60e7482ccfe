"""Pseudonyms: the documented HMAC, a key that only its owner reads, and no user id in any message."""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from recserve_server_ext.common.errors import ConfigError, ServerError, UserIdError, UserKeysError
from recserve_server_ext.interactions.key_file import KEY_VARIABLE, read_pseudonyms
from recserve_server_ext.interactions.pseudonyms import Pseudonyms, is_pseudonym

KEY = bytes(range(32))


def test_a_pseudonym_is_the_hmac() -> None:
    made = Pseudonyms(KEY).of("Zoë 42")
    assert made == hmac.new(KEY, "Zoë 42".encode(), hashlib.sha256).hexdigest()
    assert is_pseudonym(made)


def test_the_first_test_case_of_rfc_4231_with_a_longer_key() -> None:
    # Case 6: a key of 131 bytes, so longer than a block.
    made = Pseudonyms(b"\xaa" * 131).of("Test Using Larger Than Block-Size Key - Hash Key First")
    assert made == "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"


def test_a_rotated_pseudonym_is_that_of_the_first_key_encrypted() -> None:
    first, second, third = (bytes([n]) * 32 for n in (1, 2, 3))
    made = hmac.digest(first, b"ann", hashlib.sha256)
    for keys in ((first, second), (first, second, third)):
        ring = Pseudonyms(*keys)
        cipher = AESSIV(hmac.digest(keys[-1], b"\0pseudonyms", hashlib.sha512))
        assert ring.of("ann") == cipher.encrypt(made, None).hex()
        assert is_pseudonym(ring.of("ann"))
        assert ring.origin(ring.of("ann")) == made.hex()
        assert [name for _, name in ring.stages(ring.of("ann"))] == [
            Pseudonyms(*keys[:count]).of("ann") for count in range(len(keys), 0, -1)
        ]


def test_the_cipher_is_the_one_of_rfc_5297() -> None:
    key, nothing, text = (
        "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff",
        "101112131415161718191a1b1c1d1e1f2021222324252627",
        "112233445566778899aabbccddee",
    )
    made = AESSIV(bytes.fromhex(key)).encrypt(bytes.fromhex(text), [bytes.fromhex(nothing)])
    assert made.hex() == "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"


def test_what_a_new_key_makes_has_nothing_of_what_the_old_ones_made() -> None:
    old = Pseudonyms(KEY)
    rings = [Pseudonyms(KEY, bytes([n]) * 32) for n in range(1, 50)]
    pseudonyms, marks = {ring.of("ann") for ring in rings}, {ring.tombstone(ring.of("ann")) for ring in rings}
    assert len(pseudonyms | marks) == 2 * 49
    assert {ring.renewed(old.of("ann"), old) for ring in rings} == pseudonyms
    assert {ring.renewed(old.tombstone(old.of("ann")), old) for ring in rings} == marks
    with pytest.raises(UserKeysError, match="other keys"):
        rings[0].origin(rings[1].of("ann"))


@pytest.mark.parametrize(
    ("user_id", "message"),
    [
        ("", "empty"),
        ("secret" * 43, "258 characters"),
        ("secret\0", "NUL"),
        ("secret e\u0301", "NFC"),
        ("secret \ud800", "surrogate"),
        (b"secret", "not bytes"),
        (None, "not NoneType"),
    ],
)
def test_a_bad_user_id_is_refused_without_being_named(user_id: str, message: str) -> None:
    with pytest.raises(UserIdError, match=message) as caught:
        Pseudonyms(KEY).of(user_id)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_longest_user_id() -> None:
    assert is_pseudonym(Pseudonyms(KEY).of("x" * 256))


@pytest.mark.parametrize(
    "text", ["", "ann", "a" * 63, "a" * 65, "a" * 95, "a" * 97, "A" * 64, "g" * 64, "a" * 64 + "\n", 3, None]
)
def test_other_texts_are_no_pseudonyms(text: object) -> None:
    assert not is_pseudonym(text)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "pseudonym.key"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: read_pseudonyms(path, {}).of("ann"), range(8)))
    assert len(set(made)) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["pseudonym.key"]
    assert read_pseudonyms(path, {}).of("ann") == made[0]
    assert read_pseudonyms(tmp_path / "other.key", {}).of("ann") != made[0]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    read_pseudonyms(path, {})
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_pseudonyms(path, {})


def test_the_environment_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "pseudonym.key"
    assert read_pseudonyms(path, {KEY_VARIABLE: KEY.hex()}).of("ann") == Pseudonyms(KEY).of("ann")
    assert not path.exists()


@pytest.mark.parametrize("key", ["", "ab" * 31, "xy" * 32])
def test_a_bad_key_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"key|hexadecimal"):
        read_pseudonyms(tmp_path / "k", {KEY_VARIABLE: key})
    path = tmp_path / "pseudonym.key"
    path.write_text(key)
    path.chmod(0o600)
    with pytest.raises(ServerError, match="key"):
        read_pseudonyms(path, {})


def test_a_key_that_cannot_be_read_is_explained(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read or made"):
        read_pseudonyms(tmp_path, {})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be read or made"):
        read_pseudonyms(tmp_path / "file" / "pseudonym.key", {})
