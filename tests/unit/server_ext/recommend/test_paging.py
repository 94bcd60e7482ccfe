"""Pages are parts of one ranking, whatever happens to the catalogue between them; cursors cannot be made up."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from recserve_client.contract import ErrorKind, RequestError, Slate
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.config.server import Limits
from recserve_server_ext.index.snapshot import Snapshot
from support.edited import ENCODER, Edited
from support.examples import examples
from support.service import Service
from support.small_snapshot import small_snapshot

REQUEST: dict[str, Any] = {"history": [{"item": "i9"}, {"text": "abc"}], "k": 23}


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return small_snapshot(tmp_path_factory.mktemp("small"))


@pytest.fixture
def service(snapshot: Snapshot) -> Service:
    return Service(snapshot, Limits(cursors=2))


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db")
    yield edited
    edited.store.close()


def page(service: Service, cursor: object = None, size: int = 10, **options: Any) -> Slate:
    return service.ask(**{**REQUEST, **options}, page={"size": size, "cursor": cursor})


def expired(service: Service, cursor: object, **options: Any) -> str:
    with pytest.raises(RequestError) as caught:
        page(service, cursor, **options)
    assert caught.value.kind is ErrorKind.EXPIRED_CURSOR
    return caught.value.text


SHAPED = {
    "diversify": 0.5,
    "boosts": [{"by": "recency", "attribute": "year", "half_life": 9, "now": 2000, "weight": 0.2}],
    "pins": [{"item": "i150", "place": 12, "name": "launch"}],
}


@pytest.mark.parametrize("slate", [None, SHAPED])
def test_the_pages_are_the_whole(service: Service, slate: dict[str, Any] | None) -> None:
    options: dict[str, Any] = {
        "slate": slate,
        "fields": ["title"],
        "where": {"op": "range", "attribute": "year", "ge": 1920},
    }
    whole = service.ask(**REQUEST, **options)
    first = page(service, **options)
    second = page(service, first.cursor, **options)
    third = page(service, second.cursor, size=5, **options)
    assert [len(part.items) for part in (first, second, third)] == [10, 10, 3]
    assert third.cursor is msgspec.UNSET
    assert [*first.items, *second.items, *third.items] == whole.items
    # A page may be asked for again.
    assert page(service, first.cursor, **options).items == second.items
    assert page(service, size=23, **options).cursor is msgspec.UNSET


def test_other_cursors_are_refused(service: Service, snapshot: Snapshot) -> None:
    cursor = page(service).cursor
    assert isinstance(cursor, str)
    raw = bytearray(base64.urlsafe_b64decode(cursor))
    for place in range(len(raw)):
        raw[place] ^= 1
        expired(service, base64.urlsafe_b64encode(raw).decode())
        raw[place] ^= 1
    for forged in ("", "x", "é", cursor[:-4], cursor + "AAAA"):
        assert "ask for the first page again" in expired(service, forged)
    expired(service, cursor, k=24)
    expired(service, cursor, where={"op": "exists", "attribute": "year"})
    expired(Service(snapshot, Limits()), cursor)
    assert len(page(service, cursor).items) == 10


def test_the_least_recently_used_ranking_goes(service: Service) -> None:
    first, second = page(service).cursor, page(service, k=24).cursor
    page(service, first)
    page(service, k=25)
    assert "limits.cursors" in expired(service, second, k=24)
    assert len(page(service, first).items) == 10


def test_pages_are_stable_while_the_catalogue_changes(edited: Edited) -> None:
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    service = Service(live.view().snapshot, Limits(), live.view)
    ask: dict[str, Any] = {"history": [{"item": "i1"}], "k": 20}
    whole = [item.id for item in service.ask(**ask).items]
    first = service.ask(**ask, page={"size": 5})
    edited.change("upsert", [{"id": f"new{n}", "texts": {"title": "film 1"}} for n in range(9)])
    edited.change("upsert", [{"id": whole[7], "texts": {"title": "not film 1"}}])
    edited.change("delete", [{"id": whole[8]}])
    edited.publish()
    second = service.ask(**ask, page={"size": 5, "cursor": first.cursor})
    # What was deleted never appears again; what follows takes its place, with its score of today.
    assert [item.id for item in second.items] == [*whole[5:8], *whole[9:11]]
    assert second.revision == first.revision
    third = service.ask(**ask, page={"size": 10, "cursor": second.cursor})
    assert [item.id for item in third.items] == whole[11:]
    assert third.cursor is msgspec.UNSET
    edited.change("delete", [{"id": name} for name in whole[11:]])
    # Nothing is left after the second page: it says so when it is asked for again.
    assert service.ask(**ask, page={"size": 5, "cursor": first.cursor}).cursor is msgspec.UNSET


changes = st.lists(
    st.tuples(st.sampled_from(["delete", "hide", "show", "rename"]), st.integers(0, 29)), min_size=1, max_size=12
)


@examples(12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(st.tuples(st.integers(1, 8), changes), min_size=2, max_size=8), is_shaped=st.booleans())
def test_pages_of_a_catalogue_that_changes(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[tuple[int, list[tuple[str, int]]]], is_shaped: bool
) -> None:
    folder = tmp_path_factory.mktemp("pages")
    edited = Edited(folder, folder / "catalogue.db")
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    service = Service(live.view().snapshot, Limits(), live.view)
    ask: dict[str, Any] = {"history": [{"text": "film 1"}], "k": 25, "slate": {"diversify": 0.3} if is_shaped else None}
    whole = [item.id for item in service.ask(**ask).items]
    shown: list[str] = []
    missed: set[str] = set()
    cursor: object = None
    for size, made in [*rounds, *[(8, [])] * 4]:
        answer = service.ask(**ask, page={"size": size, "cursor": cursor})
        there = {item.id for item in edited.store.items() if item.available}
        found = [item.id for item in answer.items]
        assert set(found) <= there
        assert answer.revision == 1
        shown += found
        cursor = answer.cursor
        if cursor is msgspec.UNSET:
            break
        assert len(found) == size
        for op, item in made:
            texts = {"title": "another" if op == "rename" else f"film {item}"}
            if op == "delete":
                edited.change("delete", [{"id": f"i{item}"}])
            else:
                edited.change("upsert", [{"id": f"i{item}", "texts": texts, "available": op != "hide"}])
        missed |= set(whole) - {item.id for item in edited.store.items() if item.available}
    edited.store.close()
    places = [whole.index(name) for name in shown]
    assert places == sorted(set(places)), "the order of the first page's ranking, nothing twice"
    if cursor is msgspec.UNSET:
        assert set(whole) - missed <= set(shown), "what was there all the time is on some page"
