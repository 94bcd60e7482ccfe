"""Changes of the catalogue by the model `items`, without Triton: what becomes of each item, and that it stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recserve_client.contract import CatalogueItem, ErrorKind, RequestError
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.config.server import Limits
from support.edited import Edited

LIMITS = Limits(text_bytes=200, item_bytes=2000, attributes=4, items_bytes=20_000)


@pytest.fixture
def edited(tmp_path: Path, store_place: Path | str) -> Iterator[Edited]:
    edited = Edited(tmp_path, store_place, limits=LIMITS)
    yield edited
    edited.store.close()


def film(item_id: str, title: str, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}, **more}


def test_each_item_is_created_updated_or_left_alone(edited: Edited, store_place: Path | str) -> None:
    answer = edited.change("upsert", [film("new", "Alien"), film("i0", "other"), film("i1", "film 1")])
    # i1 loses its year.
    assert [result.status for result in answer.results] == ["created", "updated", "updated"]
    assert answer.revision == edited.store.revision == 2
    assert edited.asked == ["Alien", "other"]
    with CatalogueStore(store_place) as other:
        found = other.get("new")
    assert found is not None
    assert found.texts == {"title": "Alien"}


def test_what_is_there_already_changes_nothing(edited: Edited) -> None:
    same = film("i3", "film 3", attributes={"year": 1903})
    answer = edited.change("upsert", [same])
    assert [result.status for result in answer.results] == ["unchanged"]
    assert answer.revision == 1
    assert edited.asked == []


def test_an_item_whose_texts_stay_is_not_encoded_again(edited: Edited) -> None:
    assert edited.statuses("upsert", film("i3", "film 3", available=False)) == ["updated"]
    assert edited.asked == []
    assert edited.find(op="get", ids=["i3"]).items == [CatalogueItem("i3", {"title": "film 3"}, {}, False, 2)]


def test_each_distinct_text_is_encoded_once(edited: Edited) -> None:
    edited.change("upsert", [film("a", "same"), film("b", "same"), film("c", "other")])
    assert edited.asked == ["same", "other"]


def test_deleting(edited: Edited) -> None:
    assert edited.statuses("delete", {"id": "i5"}, {"id": "nowhere"}) == ["deleted", "absent"]
    assert edited.find(op="get", ids=["i5", "i6"]).missing == ["i5"]
    assert edited.statuses("delete", {"id": "i5"}) == ["absent"]
    assert edited.statuses("upsert", film("i5", "film 5")) == ["created"]


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"id": "x"}, "missing required field `texts`"),
        ({"id": "x", "texts": {}}, "no text with a weight"),
        (film("x", "  "), "no text with a weight"),
        ({"id": "x", "texts": {"titel": "Alien"}}, "'titel', which is no text field; did you mean 'title'?"),
        (film("x", "a\0b"), "holds NUL"),
        (film("x", "Alien", attributes={"x": {"deep": 1}}), "$.attributes.x is {'deep': 1}"),
        (film("x", "Alien", attributes={"x": 2**63}), "$.attributes.x is 9223372036854775808"),
        (film("x", "Alien", attributes={"x": [1, 200]}), "$.attributes.x is [1, 200]"),
        (film("x", "Alien", attributes={"": 1}), "a name of 0 characters"),
        (film("x", "Alien", attributes={str(n): n for n in range(5)}), "limits.attributes allows 4"),
        (film("x", "Alien", attributes={"x": "y" * 3000}), "limits.item_bytes allows 2,000"),
        (film("x", "Alien", colour="red"), "unknown option 'colour'"),
        (film("x\x00y", "Alien"), "control characters"),
        (film("y" * 513, "Alien"), "length <= 512"),
        (film("i1", "Alien"), "'i1' is in this request already"),
        ({"id": "x", "texts": {"title": "up", "genre": 7}}, "$.texts[...]"),
        (film("x", "Alien", if_revision=-1), "if_revision"),
        ("not an object", "not an object"),
    ],
)
def test_a_bad_item_is_named_and_the_others_are_kept(edited: Edited, bad: Any, named: str) -> None:
    answer = edited.change("upsert", [film("i1", "first"), bad, film("i2", "second")])
    first, refused, second = answer.results
    assert (first.status, second.status) == ("updated", "updated")
    assert refused.status == "refused"
    assert refused.error.startswith("$.items[1]")
    assert named in refused.error
    assert edited.store.count() == 30


def test_a_null_leaves_its_attribute_out(edited: Edited) -> None:
    assert edited.statuses("upsert", film("i3", "film 3", attributes={"year": None, "rated": "G"})) == ["updated"]
    stored = edited.store.get("i3")
    assert stored is not None
    assert stored.attributes == {"rated": "G"}


@pytest.mark.parametrize(
    ("value", "kind"), [("1903", "string"), (True, "boolean"), (["1903"], "list of strings"), (1903.5, "")]
)
def test_an_attribute_keeps_its_type_on_an_item(edited: Edited, value: Any, kind: str) -> None:
    answer = edited.change("upsert", [film("i1", "film 1"), film("i3", "film 3", attributes={"year": value})])
    if not kind:
        assert [result.status for result in answer.results] == ["updated", "updated"]
        return
    assert [result.status for result in answer.results] == ["updated", "refused"]
    for part in (
        "$.items[1], 'i3': $.attributes.year is ", f"{value!r}, a {kind}", "has a number there, 1903", "without",
    ):  # fmt: skip
        assert part in answer.results[1].error
    assert answer.results[1].kind == "attribute_type"
    assert edited.statuses("upsert", film("i3", "film 3")) == ["updated"]
    # The others still have numbers there.
    again = edited.change("upsert", [film("i3", "film 3", attributes={"year": value})])
    assert (again.results[0].status, again.results[0].kind) == ("refused", "attribute_type")


def test_vectors_that_cancel_out_are_refused_alone(edited: Edited) -> None:
    cancelling = {"id": "x", "texts": {"title": "up", "genre": "not up"}}
    edited.store.replace_all(list(edited.store.items()), field_weights={"title": 1.0, "genre": 1.0})
    answer = edited.change("upsert", [cancelling, film("y", "down")])
    assert [result.status for result in answer.results] == ["refused", "created"]
    assert "cancel out" in answer.results[0].error


def test_a_revision_that_is_not_the_items_own_is_a_conflict(edited: Edited) -> None:
    assert edited.statuses("upsert", film("i1", "x", if_revision=7)) == ["conflict"]
    assert edited.statuses("upsert", film("i1", "x", if_revision=1)) == ["updated"]
    assert edited.statuses("upsert", film("i1", "y", if_revision=1)) == ["conflict"]
    assert edited.statuses("upsert", film("new", "y", if_revision=0)) == ["created"]
    assert edited.statuses("upsert", film("new", "z", if_revision=0)) == ["conflict"]
    assert edited.statuses("delete", {"id": "new", "if_revision": 1}) == ["conflict"]
    assert edited.statuses("delete", {"id": "new", "if_revision": 3}) == ["deleted"]


def test_a_change_sent_again_is_answered_and_not_done_again(edited: Edited) -> None:
    first = edited.change("upsert", [film("a", "A"), {"id": "bad"}], "once")
    edited.change("upsert", [film("a", "later")])
    again = edited.change("upsert", [film("a", "A"), {"id": "bad"}], "once")
    assert (again.is_replay, first.is_replay) == (True, False)
    assert (again.revision, again.results) == (first.revision, first.results)
    found = edited.store.get("a")
    assert found is not None
    assert found.texts == {"title": "later"}
    assert edited.store.revision == 3


def test_a_request_id_of_another_change_is_refused(edited: Edited) -> None:
    edited.change("upsert", [film("a", "A")], "once")
    with pytest.raises(RequestError) as caught:
        edited.change("upsert", [film("a", "B")], "once")
    assert caught.value.kind is ErrorKind.REQUEST_ID_REUSED
    assert "'once'" in caught.value.text


def test_only_the_last_answers_are_kept(edited: Edited, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_server_ext.catalogue.changes.KEPT_WRITES", 3)
    for number in range(5):
        edited.change("delete", [{"id": "nowhere"}], f"r{number}")
    assert [edited.change("delete", [{"id": "nowhere"}], f"r{number}").is_replay for number in (4, 3)] == [True, True]
    assert edited.change("delete", [{"id": "nowhere"}], "r0").is_replay is False


def test_an_import_between_encoding_and_writing_begins_anew(edited: Edited) -> None:
    raw = b'{"op": "upsert", "items": [{"id": "a", "texts": {"title": "A"}}]}'
    edited.editor.begin()
    job = edited.editor.accept(raw)
    edited.editor.look_up([job])
    while call := edited.editor.pending(job):
        edited.editor.resume([job], call, edited.encode(call.inputs, call.version), 0)
    edited.store.replace_all(list(edited.store.items()), field_weights={"title": 1.0})
    (answer,) = edited.editor.answer([job])
    assert isinstance(answer, RequestError)
    assert answer.kind is ErrorKind.UNAVAILABLE
    assert edited.store.get("a") is None


def test_pages_are_in_the_order_of_the_ids(edited: Edited) -> None:
    seen, after = [], ""
    while True:
        page = edited.find(op="list", after=after, limit=7)
        seen += [item.id for item in page.items]
        if not page.next:
            break
        after = page.next
    assert seen == sorted(f"i{row}" for row in range(30))


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'{"op": "upsert", "items": []}', ErrorKind.INVALID_REQUEST),
        (b'{"op": "drop"}', ErrorKind.INVALID_REQUEST),
        (b'{"items": []}', ErrorKind.INVALID_REQUEST),
        (b'{"op": "get", "ids": ["a"], "fields": []}', ErrorKind.INVALID_REQUEST),
        (b'{"op": "list", "limit": 0}', ErrorKind.INVALID_REQUEST),
        (b"{" + b" " * 20_001, ErrorKind.TOO_LARGE),
        (b"[" * 2000, ErrorKind.INVALID_REQUEST),
        (b'{"op": "get", "ids": ["a\\u0000"]}', ErrorKind.INVALID_REQUEST),
        (b'{"op": "list", "after": "a\\u0000b\\n"}', ErrorKind.INVALID_REQUEST),
        (b'{"op": "delete", "items": [{"id": "a"}], "request_id": "\\u0000"}', ErrorKind.INVALID_REQUEST),
        (b"no JSON", ErrorKind.INVALID_JSON),
        (b'{"op": "upsert", "items": [' + b"[" * 5000 + b"]" * 5000 + b"]}", ErrorKind.INVALID_JSON),
    ],
)
def test_what_is_no_request_is_refused(edited: Edited, raw: bytes, kind: ErrorKind) -> None:
    with pytest.raises(RequestError) as caught:
        edited.editor.accept(raw)
    assert caught.value.kind is kind


def test_a_store_that_cannot_be_used_is_unavailable(edited: Edited) -> None:
    with edited.store.database.writing() as connection:
        connection.exec_driver_sql("DROP TABLE item_vectors")
    with pytest.raises(RequestError) as caught:
        edited.change("upsert", [film("a", "A")])
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert edited.store.get("a") is None
