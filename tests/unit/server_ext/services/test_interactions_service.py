"""Requests to the model `interactions`, without Triton: what is recorded, read, erased and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from recserve_client.contract import ErrorKind, RequestError
from recserve_export.interactions.preview import preview_of
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import Limits
from support.events import ANN, NOW
from support.users import Desk, act

#: Holds what no message may hold.
SECRET = "bob-the-secret"
LIMITS = Limits(interactions_bytes=2_000_000, interaction_bytes=2000)


@pytest.fixture
def desk(store_place: Path | str) -> Iterator[Desk]:
    desk = Desk(store_place, LIMITS)
    yield desk
    desk.close()


def statuses(answer: Any) -> list[str]:
    return [result["status"] for result in answer["results"]]


def test_what_is_recorded_is_in_the_history_and_a_duplicate_changes_nothing(desk: Desk) -> None:
    assert statuses(desk.ask(op="record", interactions=[act(event_id="e1")])) == ["recorded"]
    again = desk.ask(op="record", interactions=[act(event_id="e1", item="i2"), act(item="i3", event_id="e2")])
    assert statuses(again) == ["duplicate", "recorded"]
    entries = desk.ask(op="history", user_id="ann")["entries"]
    assert {entry["item"] for entry in entries} == {"i1", "i3"}
    assert desk.ask(op="history", user_id="nobody")["entries"] == []


def test_the_history_is_that_of_preview(desk: Desk) -> None:
    events = [act(item=f"i{n % 7}", timestamp=NOW - 1000 * n, type="like" if n % 3 else "dislike") for n in range(40)]
    events += [act(item=None, text="space", type="search"), act(type="waved")]
    desk.ask(op="record", interactions=events)
    found = desk.ask(op="history", user_id="ann")
    preview = preview_of(desk.store.window([ANN]), HistoryRules())
    assert found["rules"] == preview.rules
    assert found["read"] == preview.read == 42
    assert found["left_out"] == {"no_weight": 1}
    shown = [(row.subject, row.weight, row.factors) for row in preview.rows]
    assert [(e.get("item", e.get("text")), e["weight"], e["factors"]) for e in found["entries"]] == shown


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("an empty id", {"user_id": ""}, "invalid_user"),
    ("a long id", {"user_id": SECRET * 800}, "too_large"),
    ("an id of 257 characters", {"user_id": "a" * 257}, "invalid_user"),
    ("NUL", {"user_id": SECRET + "\0"}, "invalid_user"),
    ("not NFC", {"user_id": SECRET + "e\u0301"}, "invalid_user"),
    ("a number", {"user_id": 7}, "malformed"),
    ("no user", {"user_id": None}, "malformed"),
    ("a late time", {"timestamp": 1e300}, "in_future"),
    ("a negative time", {"timestamp": -1}, "invalid_timestamp"),
    ("an unknown field", {SECRET: 1}, "malformed"),
    ("a value that is a text", {"value": SECRET}, "malformed"),
    ("a huge value", {"value": 1e13}, "invalid_number"),
    ("a megabyte", {"text": "x" * 1_000_000, "item": None}, "too_large"),
    ("neither item nor text", {"item": None}, "invalid_subject"),
    ("item and a blank text", {"text": " "}, "invalid_subject"),
    ("a type with spaces", {"type": "Big Click"}, "invalid_type"),
    ("a nested context", {"context": {"a": [1]}}, "invalid_context"),
]


@pytest.mark.parametrize(("fields", "reason"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_interaction_is_refused_alone_and_its_user_not_named(
    desk: Desk, fields: dict[str, Any], reason: str
) -> None:
    events = [act(SECRET, item=f"i{n}") for n in range(1000)]
    events[500] = {**act(SECRET), **fields}
    answer = desk.ask(op="record", interactions=events)
    assert statuses(answer) == ["recorded"] * 500 + ["refused"] + ["recorded"] * 499
    assert answer["results"][500]["reason"] == reason
    assert SECRET not in json.dumps(answer)


REFUSED: list[tuple[str, bytes, ErrorKind]] = [
    ("nan", b'{"op":"record","interactions":[{"user_id":"bob-the-secret","value":NaN}]}', ErrorKind.INVALID_JSON),
    ("cut off", b'{"op":"export","user_id":"bob-the-secret', ErrorKind.INVALID_JSON),
    ("not utf-8", b'{"op":"export","user_id":"bob-the-secret\xff"}', ErrorKind.INVALID_JSON),
    ("unknown op", b'{"op":"bob-the-secret"}', ErrorKind.INVALID_REQUEST),
    ("unknown name", b'{"op":"erase","user_id":"a","bob-the-secret":1}', ErrorKind.INVALID_REQUEST),
    ("a list", b'{"op":"erase","user_id":["bob-the-secret"]}', ErrorKind.INVALID_REQUEST),
    ("no user", b'{"op":"erase","name":"bob-the-secret"}', ErrorKind.INVALID_REQUEST),
    ("NUL", b'{"op":"erase","user_id":"bob-the-secret\\u0000"}', ErrorKind.INVALID_REQUEST),
    ("nothing", b'{"op":"record","interactions":[]}', ErrorKind.INVALID_REQUEST),
    ("deep", b'{"op":"record","interactions":' + b"[" * 5000 + b"]" * 5000 + b"}", ErrorKind.INVALID_JSON),
    ("many", b'{"op":"record","interactions":[' + b",".join([b"1"] * 10_001) + b"]}", ErrorKind.INVALID_REQUEST),
    ("large", b" " * 2_000_001, ErrorKind.TOO_LARGE),
]


@pytest.mark.parametrize(("raw", "kind"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_bad_request_fails_alone_and_its_user_is_not_named(desk: Desk, raw: bytes, kind: ErrorKind) -> None:
    good = {"op": "record", "interactions": [act()]}
    before, refused, after = desk.batch(good, raw, good)
    assert isinstance(refused, RequestError)
    assert refused.kind is kind
    assert SECRET not in str(refused)
    assert len(str(refused)) < 300
    assert statuses(before) == ["recorded"]
    assert statuses(after) == ["duplicate"]


def test_requests_of_a_batch_share_transactions(desk: Desk) -> None:
    requests = [{"op": "record", "interactions": [act(f"user{n}")]} for n in range(50)]
    assert all(statuses(answer) == ["recorded"] for answer in desk.batch(*requests))
    assert desk.store.revision == 1


def test_a_request_larger_than_a_transaction_takes_several(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "store.db", batch=100)
    answer = desk.ask(op="record", interactions=[act(item=f"i{n}") for n in range(250)])
    assert statuses(answer) == ["recorded"] * 250
    assert desk.store.revision == 3
    desk.close()


def test_requests_of_a_batch_are_answered_in_their_order(desk: Desk) -> None:
    record = {"op": "record", "interactions": [act()]}
    erase, history = ({"op": op, "user_id": "ann"} for op in ("erase", "history"))
    first, receipt, late, after = desk.batch(record, erase, record, history)
    assert statuses(first) == ["recorded"]
    assert receipt["interactions"] == 1
    assert late["results"][0]["reason"] == "erased"
    assert after["entries"] == []


def test_all_that_is_held_is_exported(desk: Desk) -> None:
    given = {"type": "click", "timestamp": NOW - 60, "item": "i1", "event_id": "e1", "context": {"a": 1}}
    desk.ask(op="record", interactions=[{"user_id": "ann", **given, "recommendation_id": "made-up"}])
    found = desk.ask(op="export", user_id="ann")
    assert found["pseudonym"] == ANN
    assert found["interactions"] == [{**given, "recommendation_id": "made-up"}]
    assert found["seen"] == [{"item": "i1", "kind": "seen", "timestamp": NOW - 60}]
    assert found["answers"] == []


def test_a_receipt_is_of_one_user_and_one_erasure(desk: Desk) -> None:
    desk.ask(op="record", interactions=[act()])
    receipt = desk.ask(op="erase", user_id="ann")
    assert ANN not in json.dumps(receipt)
    verified = desk.ask(op="verify", user_id="ann", receipt=receipt)
    assert verified == {"is_valid": True, "interactions": 0, "seen": 0, "answers": 0}
    assert not desk.ask(op="verify", user_id="bob", receipt=receipt)["is_valid"]
    for name, value in (("interactions", 2), ("erased_at", NOW - 1), ("refused_until", NOW), ("proof", "é")):
        assert not desk.ask(op="verify", user_id="ann", receipt={**receipt, name: value})["is_valid"]
    with pytest.raises(RequestError, match="time"):
        desk.ask(op="verify", user_id="ann", receipt={**receipt, "erased_at": 1e300})
    desk.ask(op="record", interactions=[act(timestamp=NOW + 1)])
    verified = desk.ask(op="verify", user_id="ann", receipt=receipt)
    assert verified == {"is_valid": True, "interactions": 1, "seen": 1, "answers": 0}


def test_a_store_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "store.db")
    with desk.store.database.writing() as connection:
        connection.execute(sa.text("DROP TABLE interactions"))
    with pytest.raises(RequestError) as refused:
        desk.ask(op="record", interactions=[act()])
    assert refused.value.kind is ErrorKind.UNAVAILABLE
    desk.close()
