"""The catalogue that is served follows every change at once, and swaps to new snapshots without losing one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.catalogue import live as live_catalogue
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.errors import CatalogueError, SnapshotError
from recserve_server_ext.index.pointers import CURRENT, current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.retrieval.search import CandidateSpec, search
from support.edited import ENCODER, Edited, item_vector, vector_of
from support.examples import examples

NOBODY = np.empty(0, np.int64)


@pytest.fixture
def edited(tmp_path: Path, store_place: Path | str) -> Iterator[Edited]:
    edited = Edited(tmp_path, store_place)
    yield edited
    edited.store.close()


def live_over(edited: Edited) -> LiveCatalogue:
    return LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)


def film(item_id: str, title: str, **more: Any) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}, **more}


def best(view: View, text: str, k: int = 5) -> list[str]:
    (rows,) = search(view.text, vector_of(text)[None], [CandidateSpec(k, NOBODY, None)])
    return view.ids(rows)


def expected(edited: Edited, text: str, k: int = 5) -> list[str]:
    """The best available items of the store, exactly."""
    items = [item for item in edited.store.items() if item.available]
    scores = [float(item_vector(item.texts) @ vector_of(text)) for item in items]
    return [items[place].id for place in np.argsort(np.negative(scores), kind="stable")[:k]]


def swapped(live: LiveCatalogue) -> View:
    """The view once the new snapshot is loaded."""
    live.view()
    if live._loading is not None:
        live._loading.join(30)
    return live.view()


def test_a_change_is_in_the_next_view(edited: Edited) -> None:
    live = live_over(edited)
    assert live.view().delta is None
    revision = edited.change("upsert", [film("new", "a brand new film")]).revision
    view = live.view()
    assert view.revision == revision
    assert best(view, "a brand new film")[0] == "new"
    assert view.fields(["title", "year"], np.array([view.row_of.get("new", -1)])) == [
        {"title": "a brand new film", "year": None}
    ]
    edited.change("delete", [{"id": "new"}])
    view = live.view()
    assert view.row_of.get("new", -1) == -1
    assert "new" not in best(view, "a brand new film", 40)


def test_an_older_view_stays_as_it_was(edited: Edited) -> None:
    live = live_over(edited)
    edited.change("upsert", [film("a", "first")])
    old = live.view()
    for number in range(200):
        edited.change("upsert", [film(f"b{number}", f"later {number}"), film("a", f"changed {number}")])
        live.view()
    assert best(old, "first")[0] == "a"
    assert len(set(best(old, "first", 100))) == 31
    assert np.allclose(old.text.vectors(np.array([old.row_of.get("a", -1)]))[0], vector_of("first"), atol=1e-6)


def test_an_item_is_hidden_and_comes_back(edited: Edited) -> None:
    live = live_over(edited)
    edited.change("upsert", [film("i7", "film 7", available=False)])
    view = live.view()
    assert "i7" not in best(view, "film 7", 40)
    # It may still be part of a history.
    assert np.allclose(view.text.vectors(np.array([view.row_of.get("i7", -1)]))[0], vector_of("film 7"), atol=1e-6)
    edited.change("upsert", [film("i7", "film 7")])
    assert best(live.view(), "film 7")[0] == "i7"
    assert edited.asked == []


Op = tuple[str, int, int]
ops = st.lists(
    st.tuples(st.sampled_from(["upsert", "hide", "delete", "publish"]), st.integers(0, 12), st.integers(0, 3)),
    min_size=1,
    max_size=25,
)


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops)
def test_every_view_is_the_store(tmp_path: Path, script: list[Op]) -> None:
    """Whatever happens in whatever order, what is found is what an exact search over the store finds."""
    folder = tmp_path / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    edited = Edited(folder, folder / "catalogue.db", items=8)
    live = live_over(edited)
    for op, item, text in script:
        if op == "publish":
            if edited.store.count():
                edited.publish()
            view = swapped(live)
        else:
            one = film(f"i{item}", f"text {text}", available=op != "hide")
            edited.change("delete" if op == "delete" else "upsert", [{"id": one["id"]} if op == "delete" else one])
            view = live.view()
        assert view.revision == edited.store.revision
        for number in range(4):
            found = best(view, f"text {number}")
            # Items with equal texts tie: compare the scores.
            wanted = expected(edited, f"text {number}")
            assert len(found) == len(wanted) == len(set(found))
            scores = [
                [
                    float(item_vector(one.texts) @ vector_of(f"text {number}"))
                    for one in map(edited.store.get, ids)
                    if one
                ]
                for ids in (found, wanted)
            ]
            np.testing.assert_allclose(scores[0], scores[1], atol=1e-6)
    edited.store.close()


def test_a_new_snapshot_is_taken_with_what_changed_after_it(edited: Edited) -> None:
    live = live_over(edited)
    edited.change("upsert", [film("a", "in the snapshot")])
    first = live.view().snapshot
    edited.publish()
    edited.change("upsert", [film("b", "after the snapshot")])
    edited.change("delete", [{"id": "i0"}])
    view = swapped(live)
    assert view.snapshot is not first
    assert view.snapshot.manifest.revision == 2
    assert view.revision == 4
    assert view.delta is not None
    assert [item.id for item in view.delta.items] == ["b"]
    assert best(view, "in the snapshot")[0] == "a"
    assert best(view, "after the snapshot")[0] == "b"
    assert "i0" not in best(view, "film 0", 40)


def test_a_damaged_snapshot_is_named_and_the_old_one_stays(edited: Edited, caplog: pytest.LogCaptureFixture) -> None:
    live = live_over(edited)
    folder = edited.publish()
    damage(folder)
    # The file is replaced once more, so that it is seen although the old one was never read.
    (edited.snapshots / CURRENT).write_text(folder.name)
    with caplog.at_level(logging.ERROR):
        view = swapped(live)
    assert view.snapshot.manifest.id != folder.name
    assert "vectors.npy" in caplog.text
    edited.change("upsert", [film("a", "still followed")])
    assert best(live.view(), "still followed")[0] == "a"


def damage(folder: Path) -> None:
    vectors = folder / "spaces/text/vectors.npy"
    content = bytearray(vectors.read_bytes())
    content[-5] ^= 1
    vectors.write_bytes(content)


def starting(edited: Edited) -> LiveCatalogue:
    """A catalogue that serves before the vectors are verified, which begins with its first batch."""
    load = partial(Snapshot.load, encoder=ENCODER)
    live = LiveCatalogue(edited.snapshots, load, lambda: edited.store, first=partial(load, verify_vectors=False))
    assert live._loading is None
    live.view()
    return live


def test_a_first_snapshot_is_verified_while_it_serves(edited: Edited) -> None:
    live = starting(edited)
    first = live._view.snapshot
    assert swapped(live).snapshot is first
    assert live.is_verified


def test_a_damaged_first_snapshot_gives_way_to_the_one_before(edited: Edited, caplog: pytest.LogCaptureFixture) -> None:
    good = edited.publish()
    edited.change("upsert", [film("a", "changed since")])
    damage(edited.publish())
    live = starting(edited)
    view = swapped(live)
    assert (view.snapshot.manifest.id, live.is_verified) == (good.name, True)
    assert best(view, "changed since")[0] == "a"
    assert "vectors.npy is damaged" in caplog.text
    assert f"snapshot {good.name} is used instead" in caplog.text


def test_a_damaged_first_snapshot_gives_way_although_the_store_is_away(edited: Edited) -> None:
    good = edited.publish()
    edited.change("upsert", [film("a", "changed since")])
    damage(edited.publish())
    live = starting(edited)

    def away() -> CatalogueStore:
        raise CatalogueError("away")

    live._open = away
    assert live._loading is not None
    live._loading.join(30)
    assert swapped(live).snapshot.manifest.id == good.name


def test_a_damaged_only_snapshot_is_refused_until_another_is_published(
    edited: Edited, caplog: pytest.LogCaptureFixture
) -> None:
    damage(current(edited.snapshots))
    live = starting(edited)
    with pytest.raises(RequestError, match="is damaged, and no other can be served") as refused:
        swapped(live)
    assert (refused.value.kind, live.is_verified) == (ErrorKind.UNAVAILABLE, False)
    assert "vectors.npy is damaged" in caplog.text
    assert "no other snapshot can be used" in caplog.text
    good = edited.publish()
    live._look_at = 0.0
    with pytest.raises(RequestError):
        live.view()
    assert live._loading is not None
    live._loading.join(30)
    assert (live.view().snapshot.manifest.id, live.is_verified) == (good.name, True)


def test_damage_to_what_is_not_a_vector_is_found_before_anything_is_served(edited: Edited) -> None:
    table = current(edited.snapshots) / "rows_by_id.npy"
    table.write_bytes(table.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(SnapshotError, match=r"rows_by_id.npy is damaged"):
        starting(edited)


def test_an_import_waits_for_its_index(edited: Edited, caplog: pytest.LogCaptureFixture) -> None:
    live = live_over(edited)
    edited.store.replace_all([item for item in edited.store.items() if item.id != "i3"], field_weights={"title": 1.0})
    with caplog.at_level(logging.ERROR):
        assert live.view().revision == live.view().revision == 1
    assert len(caplog.records) == 1
    assert "imported anew (revision 2)" in caplog.text
    edited.publish()
    view = swapped(live)
    assert view.revision == 2
    assert view.row_of.get("i3", -1) == -1


def test_another_store_in_the_same_place_is_not_followed(
    edited: Edited, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = Edited(tmp_path / "other", tmp_path / "other.db")
    other.change("upsert", [film("a", "of another catalogue")])
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: other.store)
    assert live.view().revision == 1
    assert "is not the store" in caplog.text
    other.store.close()


def test_a_store_that_is_away_is_asked_again_later(
    edited: Edited, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def store() -> CatalogueStore:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise CatalogueError("the store is away")
        return edited.store

    now = 100.0
    monkeypatch.setattr("recserve_server_ext.catalogue.live.time.monotonic", lambda: now)
    edited.change("upsert", [film("a", "while it was away")])
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), store)
    assert live.view().revision == live.view().revision == 1
    assert asked == 1
    assert [record.getMessage() for record in caplog.records] == ["the store is away"]
    now += live_catalogue._PAUSE_S
    assert best(live.view(), "while it was away")[0] == "a"
