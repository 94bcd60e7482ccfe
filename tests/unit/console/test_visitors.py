"""Visitors of the console: what they may look at and change, until when."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_client.client import AsyncClient
from recserve_console.console import Console
from recserve_console.visitors import SESSION_S, NotAllowedError, Sessions, Visitor
from recserve_server_ext.access.key_file import create_key
from recserve_server_ext.access.scopes import Scope


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


def visitor(sessions: Sessions, key: str) -> Visitor:
    token = sessions.log_in(key)
    assert token is not None
    return Visitor(sessions, token)


def test_on_this_machine_everybody_looks_and_changes_until_there_are_keys(keys: Path) -> None:
    nobody = Visitor(Sessions(keys, is_local=True))
    assert nobody.may_look(Scope.USERS_ERASE)
    assert nobody.may_change(Scope.USERS_ERASE)
    _, key = create_key(keys, "items", [Scope.ITEMS])
    sessions = Sessions(keys, is_local=True)
    nobody, editor = Visitor(sessions), visitor(sessions, key)
    assert nobody.may_look(Scope.USERS_ERASE)
    assert not nobody.may_change(Scope.ITEMS)
    assert editor.may_change(Scope.ITEMS)
    assert not editor.may_change(Scope.USERS_ERASE)


def test_from_elsewhere_a_key_is_needed_to_look(keys: Path) -> None:
    _, items = create_key(keys, "items", [Scope.ITEMS])
    admin_id, admin = create_key(keys, "all", [Scope.ADMIN])
    sessions = Sessions(keys, is_local=False)
    assert not Visitor(sessions).may_look(Scope.RECOMMEND)
    assert visitor(sessions, items).may_look(Scope.ITEMS)
    assert not visitor(sessions, items).may_look(Scope.RECOMMEND)
    assert visitor(sessions, admin).may_change(Scope.USERS_ERASE)
    assert visitor(sessions, admin).name == admin_id
    assert not Visitor(Sessions(None, is_local=False)).may_look(Scope.RECOMMEND)


def test_a_session_ends(keys: Path) -> None:
    now = [0.0]
    _, key = create_key(keys, "all", [Scope.ADMIN])
    sessions = Sessions(keys, is_local=False, clock=lambda: now[0])
    one = visitor(sessions, key)
    now[0] = SESSION_S
    assert one.key is not None
    now[0] = SESSION_S + 1
    assert one.key is None
    for wrong in ("", "rsk_wrong", "x" * 1000):
        assert sessions.log_in(wrong) is None


def test_changes_are_written_down_with_the_key_or_refused(keys: Path, tmp_path: Path) -> None:
    key_id, key = create_key(keys, "items", [Scope.ITEMS])
    sessions = Sessions(keys, is_local=True)

    class Nobody(AsyncClient):
        def __init__(self) -> None:
            """Asks no server."""

    console = Console(Nobody(), "", "", tmp_path, sessions)
    with pytest.raises(NotAllowedError, match="scope items"):
        console.record(Scope.ITEMS, "item.hide", "i1")
    editor = console.seen_by(visitor(sessions, key))
    editor.record(Scope.ITEMS, "item.hide", "i1", "updated")
    with pytest.raises(NotAllowedError, match="scope admin"):
        editor.start(("doctor",))
    assert console.audit is not None
    (entry,) = console.audit.newest(9)
    assert (entry.action, entry.what, entry.outcome, entry.by) == ("item.hide", "i1", "updated", key_id)
    alone = Console(Nobody(), "", "", None, Sessions(None, is_local=True))
    with pytest.raises(NotAllowedError, match="beside the home"):
        alone.record(Scope.ITEMS, "item.hide", "i1")
