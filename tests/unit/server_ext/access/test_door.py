"""The door of a model: which keys it lets in to what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.access.door import Door, KeyRing, bearer
from recserve_server_ext.access.key_file import create_key, revoke_key
from recserve_server_ext.access.scopes import Scope
from support.examples import examples

OWN = "the server's own"
RECORD = b'{"op":"record","interactions":[{}]}'
HISTORY = b'{"op":"history","user_id":"ann"}'
ERASE = b'{"op":"erase","user_id":"ann"}'
EXPORT = b'{"op":"export","user_id":"ann"}'
#: A repeated tag must not be one thing to the door and another one to the service.
TWICE = b'{"op":"history","user_id":"ann","op":"erase"}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api-keys.json"


@pytest.fixture
def key(path: Path) -> Callable[..., str]:
    return lambda *scopes: create_key(path, "a test", scopes)[1]


def door(path: Path, model: str = "recommend") -> Door:
    return Door(model, KeyRing(path), OWN)


def never() -> bytes:
    raise AssertionError("the request is read")


def outcome(door: Door, header: str | None, raw: bytes | None = None) -> str:
    """The kind of the refusal; `in` without one."""
    parameters = json.dumps({} if header is None else {"authorization": header})
    try:
        door.check(parameters, never if raw is None else lambda: raw)
    except RequestError as error:
        return str(error.kind)
    return "in"


def test_a_key_opens_the_models_of_its_scope(path: Path, key: Callable[..., str]) -> None:
    recommend, items, admin = key(Scope.RECOMMEND), key(Scope.ITEMS), key(Scope.ADMIN)
    for model, opened in (
        ("recommend", {recommend}),
        ("embed", {recommend}),
        ("tokenize", {recommend}),
        ("encoder", {recommend}),
        ("pool", {recommend}),
        ("items", {items}),
        ("sequence", set()),
    ):
        for one in (recommend, items, admin):
            expected = "in" if one in opened or one == admin else "permission_denied"
            assert outcome(door(path, model), bearer(one)) == expected, model
        assert outcome(door(path, model), bearer(OWN)) == "in"


def test_an_erasure_needs_a_scope_of_its_own(path: Path, key: Callable[..., str]) -> None:
    records, erases, both = key(Scope.INTERACTIONS), key(Scope.USERS_ERASE), key(Scope.INTERACTIONS, Scope.USERS_ERASE)
    of = door(path, "interactions")
    for raw in (RECORD, HISTORY):
        assert outcome(of, bearer(records), raw) == "in"
        assert outcome(of, bearer(erases), raw) == "permission_denied"
    for raw in (ERASE, EXPORT):
        assert outcome(of, bearer(records), raw) == "permission_denied"
        assert outcome(of, bearer(erases), raw) == "in"
    assert outcome(of, bearer(both)) == "in"  # without being read
    assert outcome(of, bearer(key(Scope.RECOMMEND))) == "permission_denied"
    assert outcome(of, bearer(records), b"{") == ErrorKind.INVALID_JSON
    assert outcome(of, bearer(records), TWICE) == ErrorKind.INVALID_REQUEST


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic {}", "{}", "Bearer {}x", "Bearer x{}"])
def test_what_is_not_the_key_is_refused(header: str | None, path: Path, key: Callable[..., str]) -> None:
    good = key(Scope.ADMIN)
    given = header.replace("{}", good) if header is not None else None
    assert outcome(door(path), given) == "unauthenticated"
    assert outcome(door(path), f"bEaReR  {good} ") == "in"


@given(st.text(max_size=40))
@examples(100)
def test_no_text_is_a_key(text: str) -> None:
    missing = Path("/nonexistent/api-keys.json")
    assert outcome(door(missing), f"Bearer {text}") == ("in" if text.strip() == OWN else "unauthenticated")


@pytest.mark.parametrize(
    "parameters",
    ["", "{", "[]", "null", '{"authorization": 7}', '{"authorization": null}', r'{"authorization": "Bearer \ud800"}'],
)
def test_parameters_of_another_form_hold_no_key(parameters: str, path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        door(path).check(parameters, never)
    assert refused.value.kind is ErrorKind.UNAUTHENTICATED


def test_a_header_of_a_megabyte_is_not_hashed(path: Path, key: Callable[..., str]) -> None:
    assert outcome(door(path), bearer("a" * 1_000_000)) == "unauthenticated"
    parameters = json.dumps({"authorization": bearer(key(Scope.ADMIN)), "more": "a" * 70_000})
    with pytest.raises(RequestError, match="a valid key"):
        door(path).check(parameters, never)


def test_a_change_of_the_file_counts_from_the_next_request_on(path: Path) -> None:
    of = door(path)
    key_id, key = create_key(path, "a test", [Scope.RECOMMEND])
    assert outcome(of, bearer(key)) == "in"
    revoke_key(path, key_id)
    assert outcome(of, bearer(key)) == "unauthenticated"


def test_nobody_is_let_in_by_a_file_that_cannot_be_read(path: Path, key: Callable[..., str]) -> None:
    good, of = key(Scope.ADMIN), door(path)
    assert outcome(of, bearer(good)) == "in"
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    assert outcome(of, bearer(good)) == "unauthenticated"
    assert outcome(of, bearer(OWN)) == "in"
    path.write_bytes(content)
    assert outcome(of, bearer(good)) == "in"
    path.unlink()
    assert outcome(of, bearer(good)) == "unauthenticated"


def test_an_open_door_asks_for_nothing() -> None:
    of = Door("recommend", None, "")
    assert of.is_open
    assert outcome(of, None) == "in"


def test_only_the_first_requests_may_be_warm_ups(path: Path, key: Callable[..., str]) -> None:
    of = Door("encoder", KeyRing(path), OWN, warmups=2)
    assert [outcome(of, None) for _ in range(4)] == ["in", "in", "unauthenticated", "unauthenticated"]
    of = Door("encoder", KeyRing(path), OWN, warmups=2)
    assert outcome(of, bearer("wrong")) == "unauthenticated"
    assert outcome(of, None) == "unauthenticated"
