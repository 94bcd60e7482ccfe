"""An attribute has one type in the whole catalogue, while an available item has it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from recserve_server_ext.catalogue.attribute_types import type_of
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.catalogue.tables import attribute_types
from recserve_server_ext.common.errors import CatalogueError
from support.edited import Edited
from support.examples import examples


@pytest.fixture
def edited(tmp_path: Path, store_place: Path | str) -> Iterator[Edited]:
    edited = Edited(tmp_path, store_place, items=3)
    yield edited
    edited.store.close()


def film(item_id: str, available: bool = True, **attributes: Any) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": "film"}, "attributes": attributes, "available": available}


def kept(store: CatalogueStore) -> dict[tuple[str, str], int]:
    """The table of types."""
    with store.database.reading() as connection:
        rows = connection.execute(sa.select(attribute_types.c.name, attribute_types.c.type, attribute_types.c.holders))
        return {(name, type_): holders for name, type_, holders in rows}


def counted(store: CatalogueStore) -> dict[tuple[str, str], int]:
    """What it must be."""
    values = ((name, type_of(v)) for item in store.items() if item.available for name, v in item.attributes.items())
    return dict(Counter(values))


def test_another_item_cannot_bring_another_type(edited: Edited) -> None:
    answer = edited.change("upsert", [film("a", year=2000.5), film("b", year="2000"), film("c", colour="red")])
    assert [result.status for result in answer.results] == ["created", "refused", "created"]
    refused = answer.results[1]
    assert (refused.id, refused.kind) == ("b", "attribute_type")
    assert refused.error == (
        "$.items[1], 'b': $.attributes.year is '2000', a string; 4 available items have a number there. An "
        "attribute has one type in the whole catalogue: give it another name, or send a number"
    )
    assert kept(edited.store) == counted(edited.store)


def test_the_first_of_a_batch_decides(edited: Edited) -> None:
    assert edited.statuses("upsert", film("a", tag="x"), film("b", tag=["x"]), film("c", tag=True)) == [
        "created", "refused", "refused",
    ]  # fmt: skip


def test_a_type_goes_with_the_last_available_item(edited: Edited) -> None:
    assert edited.statuses("upsert", film("a", tag="x"), film("b", tag="y")) == ["created"] * 2
    assert edited.statuses("delete", {"id": "a"}) == ["deleted"]
    assert edited.statuses("upsert", film("c", tag=1)) == ["refused"]
    assert edited.statuses("upsert", film("b", available=False, tag="y")) == ["updated"]
    assert edited.statuses("upsert", film("c", tag=1)) == ["created"]
    # It cannot come back as it was.
    assert edited.statuses("upsert", film("b", tag="y")) == ["refused"]
    assert edited.statuses("upsert", film("b")) == ["updated"]
    assert kept(edited.store) == counted(edited.store) == {("year", "number"): 3, ("tag", "number"): 1}


def test_a_place_is_a_type_of_its_own_and_is_stored_as_floats(edited: Edited) -> None:
    assert edited.statuses("upsert", film("a", shop=[48, 2.35]), film("b", shop=["48", "2"])) == ["created", "refused"]
    assert edited.find(op="get", ids=["a"]).items[0].attributes == {"shop": [48.0, 2.35]}
    assert [type(part) for part in edited.find(op="get", ids=["a"]).items[0].attributes["shop"]] == [float, float]
    assert kept(edited.store)["shop", "place"] == 1
    (refused,) = edited.change("upsert", [film("a", shop=["x"])]).results
    assert "$.attributes.shop is ['x'], a list of strings; the item has a place there" in refused.error
    for no_place in ([91, 0], [0, 181.0], [1], [1, 2, 3], [True, 2], [1, "2"], [1, None], [1, [2]]):
        (refused,) = edited.change("upsert", [film("c", where=no_place)]).results
        assert refused.status == "refused"
        assert "or a place, [latitude, longitude] in degrees, is needed" in refused.error
    assert kept(edited.store) == counted(edited.store)


values = st.sampled_from(["x", 1, 2.5, True, ["x"], [], [1, 2.5]])
items = st.tuples(st.integers(0, 4), st.booleans(), st.dictionaries(st.sampled_from(["p", "q"]), values, max_size=2))
batches = st.lists(st.tuples(st.booleans(), st.lists(items, min_size=1, max_size=4, unique_by=lambda item: item[0])))


@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=batches)
def test_the_table_always_says_what_the_items_have(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[bool, list[tuple[int, bool, dict[str, Any]]]]]
) -> None:
    folder = tmp_path_factory.mktemp("types")
    edited = Edited(folder, folder / "catalogue.db", items=2)
    for is_delete, made in rounds:
        if is_delete:
            edited.change("delete", [{"id": f"x{number}"} for number, _, _ in made])
        else:
            edited.change("upsert", [film(f"x{number}", shown, **held) for number, shown, held in made])
        types = counted(edited.store)
        assert kept(edited.store) == types
        assert len({name for name, _ in types}) == len(types), "one type for each name"
    edited.store.close()


def test_an_import_replaces_the_types_and_cannot_mix_them(edited: Edited) -> None:
    one = StoredItem("a", {"title": "x"}, {"tag": "x", "n": 1})
    edited.store.replace_all([one, StoredItem("b", {"title": "x"}, {"n": 2.5})], field_weights={"title": 1.0})
    assert kept(edited.store) == {("tag", "string"): 1, ("n", "number"): 2}
    mixed = [one, StoredItem("c", {"title": "x"}, {"tag": ["x"]})]
    with pytest.raises(CatalogueError, match=r"item 'c': \$.attributes.tag is \['x'\], a list of strings; 1 available"):
        edited.store.replace_all(mixed, field_weights={"title": 1.0})
    assert edited.store.count() == 2
