"""Items, vectors and cursors as they come over the wire of a real Triton: what is wrong is refused alone, by name."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from recserve_client import Client, NewItem, Page, item, text
from recserve_client.errors import ExpiredCursor
from support.served import Served
from support.wire import Wire

pytestmark = pytest.mark.triton


def film(item_id: str, title: str, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}, **more}


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (film("a", ""), "no text with a weight in $.texts {'title': ''}"),
        ({"id": "a", "texts": {}}, "no text with a weight in $.texts {}"),
        ({"id": "a"}, "texts"),
        (film("a", "x" * 2**20), "limits.item_bytes allows 262,144"),
        (film("a", "x", attributes={f"n{n}": n for n in range(10_000)}), "$.attributes has 10,000 of them"),
        (film("a", "x", attributes={"year": "1999"}), "$.attributes.year is '1999', a string"),
        (film("a", "x", attributes={"when": [1, 2, 3]}), "$.attributes.when is [1, 2, 3]"),
        (film("a" * 10_000, "x"), "$.id"),
        (film("a\0b", "x"), r"$.id"),
        (film("", "x"), "$.id"),
        (film("a", "x", vector=[1.0, 2.0]), "vector"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_bad_item_is_refused_alone_and_named(live: Served, client: Client, bad: dict[str, Any], said: str) -> None:
    """The good one beside it is served; the model's process is the same afterwards."""
    process = live.stub("items").pid
    client.items.delete(["good"])
    answer = Wire(live.grpc).ask("items", {"op": "upsert", "items": [bad, film("good", "a good film")]})
    refused, good = answer["results"]
    assert (refused["status"], good["status"]) == ("refused", "created")
    assert refused["error"].startswith("$.items[0]")
    assert said in refused["error"]
    assert len(refused["error"]) < 1000
    slate = client.recommend([text("a good film")], k=1, min_revision=answer["revision"])
    assert slate.items[0].id == "good"
    assert live.stub("items").pid == process


def test_what_is_asked_with_a_wrong_vector_or_a_forged_cursor_is_refused(live: Served, client: Client) -> None:
    wire, known = Wire(live.grpc), client.items.list(limit=1).items[0].id
    for vector, said in ((np.full(3, 0.5, "<f4"), "3"), (np.full(4, np.nan, "<f4"), "")):
        packed = base64.b64encode(vector.tobytes()).decode()
        status, message = wire.refused("recommend", {"history": [{"vector": packed}]})
        assert (status, "$.history[0].vector" in message, said in message) == ("INVALID_ARGUMENT", True, True)
    cursor = client.recommend([item(known)], k=20, page=Page(5)).cursor
    assert isinstance(cursor, str)
    for place in (0, len(cursor) // 2, len(cursor) - 1):
        forged = cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
        with pytest.raises(ExpiredCursor):
            client.recommend([item(known)], k=20, page=Page(5, forged))
    assert len(client.recommend([item(known)], k=20, page=Page(5, cursor)).items) == 5


def test_places_are_found_within_a_radius(live: Served, client: Client) -> None:
    places = {"paris": [48.8566, 2.3522], "london": [51.5074, -0.1278], "null": [0, 0]}
    changed = client.items.upsert(
        [NewItem(f"at-{name}", {"title": f"a shop in {name}"}, {"shop": place}) for name, place in places.items()]
    )
    assert {(result.status, result.error) for result in changed.results} == {("created", "")}
    for radius, wanted in (("343km", ["at-paris"]), ("344km", ["at-london", "at-paris"])):
        where = f"within(shop, 48.8566, 2.3522, {radius})"
        slate = client.recommend([text("a shop")], where=where, count=True, min_revision=changed.revision)
        assert (sorted(found.id for found in slate.items), slate.count) == (wanted, len(wanted))
