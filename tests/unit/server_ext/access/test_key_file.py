"""The file of API keys: what is kept, who may change it, and what many processes do to it at once."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from recserve_server_ext.access.key_file import PREFIX, create_key, read_keys, revoke_key, sha256_of_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "api-keys.json"


def test_a_key_is_kept_as_its_hash_alone(path: Path) -> None:
    key_id, key = create_key(path, "shop", [Scope.ITEMS, Scope.RECOMMEND, Scope.ITEMS], lambda: 7.0)
    assert key.startswith(PREFIX)
    assert len(key) == len(PREFIX) + 43
    (kept,) = read_keys(path)
    assert (kept.id, kept.name, kept.scopes, kept.created_at) == (key_id, "shop", ["items", "recommend"], 7.0)
    assert kept.sha256 == sha256_of_key(key)
    written = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert key[len(PREFIX) :].encode() not in written
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_revoked_key_is_gone_and_the_others_stay(path: Path) -> None:
    made = [create_key(path, f"key {number}", [Scope.ITEMS])[0] for number in range(3)]
    assert revoke_key(path, made[1]).name == "key 1"
    assert [key.id for key in read_keys(path)] == [made[0], made[2]]
    for key_id in (made[1], "", "no such key"):
        with pytest.raises(ConfigError, match="there is no key"):
            revoke_key(path, key_id)


def test_no_key_is_lost_where_many_are_made_at_once(path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = set(threads.map(lambda number: create_key(path, f"{number}", [Scope.ADMIN])[0], range(40)))
    assert {key.id for key in read_keys(path)} == made
    assert len(made) == 40


def test_a_missing_file_has_no_keys(path: Path) -> None:
    assert read_keys(path) == []


@pytest.mark.parametrize("name", ["", "a" * 129, "two\nlines", "bell\x07"])
def test_a_name_that_a_list_cannot_show_is_refused(name: str, path: Path) -> None:
    with pytest.raises(ConfigError, match="the name"):
        create_key(path, name, [Scope.ITEMS])
    assert read_keys(path) == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"keys": [{"id": "a"}]}',
        b'{"keys": [{"id":"a","name":"b","scopes":["root"],"created_at":1,"sha256":"' + b"0" * 64 + b'"}]}',
        b'{"keys": [{"id":"a","name":"b","scopes":[],"created_at":1,"sha256":"' + b"0" * 64 + b'"}]}',
        b'{"keys": [{"id":"a","name":"b","scopes":["admin"],"created_at":1,"sha256":"short"}]}',
    ],
)
def test_a_damaged_file_is_refused_and_not_overwritten(content: bytes, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"cannot be read.*keys create"):
        read_keys(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        create_key(path, "shop", [Scope.ITEMS])
    assert path.read_bytes() == content


def test_a_file_that_others_can_change_is_refused(path: Path) -> None:
    create_key(path, "shop", [Scope.ADMIN])
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="0620"):
        read_keys(path)
    path.chmod(0o644)  # others may read hashes
    assert json.loads(path.read_bytes())["keys"]
    assert len(read_keys(path)) == 1
