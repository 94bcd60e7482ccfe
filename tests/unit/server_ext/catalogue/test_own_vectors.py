"""Vectors that come with items for spaces of the caller's own: checked, stored, served at once, and kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_client.contract import RequestError
from recserve_export.index import compact as index_compact
from recserve_export.index.compact import compact
from recserve_export.index.space_change import roll_back_space, serve_versions
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.own_vectors import OwnSpace, checked
from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.catalogue.tables import own_vectors
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.trained import publish_space
from support.edited import DIM, ENCODER, IMAGES, WEIGHTS, Edited
from support.examples import examples

OWN_DIM = 4
SPACES = {IMAGES: OwnSpace(OWN_DIM, "v1")}
numbers = st.floats(-1e30, 1e30)


class Shop:
    """A catalogue of thirty items, of which the first ten have vectors in a space of the caller's own."""

    def __init__(self, folder: Path, where: Path | str, monkeypatch: pytest.MonkeyPatch) -> None:
        class Encoder:
            fingerprint, dim = ENCODER, DIM

            def __init__(self, folder: Path, *, threads: int | None = None) -> None:
                pass

        monkeypatch.setattr(index_compact, "TextEncoder", Encoder)
        monkeypatch.setattr("recserve_server_ext.catalogue.live._LOOK_S", 0.0)
        self.edited, self.workspace = Edited(folder, where), Workspace(folder)
        self.where = "" if isinstance(where, Path) else where
        if isinstance(where, Path):
            monkeypatch.setattr(Workspace, "store", property(lambda _: where))
        self.train()
        self.live = LiveCatalogue(
            self.edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: self.edited.store
        )

    def train(self, dim: int = OWN_DIM, seed: str = "", items: Sequence[str] = ()) -> Path:
        """What `recserve train vectors` does with a file."""
        ids = items or [f"i{n}" for n in range(10)]
        vectors = np.stack([of_file(f"{seed}{item}", dim) for item in ids])
        folder = publish_space(self.workspace.spaces, IMAGES, ids, vectors)
        serve_versions(self.workspace, {IMAGES: folder}, store=self.where)
        return folder

    def upsert(self, item: str, vector: object = None, **more: Any) -> str:
        """Upsert an item; its status, or why it was refused."""
        new = {"id": item, "texts": {"title": f"film {item}"}, **more}
        if vector is not None:
            new["vectors"] = {IMAGES: vector}
        (result,) = self.edited.change("upsert", [new]).results
        return result.error or result.status

    def view(self) -> View:
        """The newest view."""
        self.live.view()
        if self.live._loading is not None:
            self.live._loading.join(30)
        return self.live.view()

    def vector(self, item: str) -> list[float] | None:
        """Its vector in the space as it is served; `None` without one."""
        view = self.view()
        row = view.row_of.get(item, -1)
        if row < 0 or not view.space(IMAGES).usable[row]:
            return None
        found: list[float] = view.space(IMAGES).vectors(np.array([row]))[0].tolist()
        return found

    def compact(self) -> None:
        """Make a new snapshot of what changed."""
        assert compact(self.edited.store, self.edited.snapshots, self.workspace.home, threads=1) is not None
        assert self.view().delta is None


def of_file(item: str, dim: int = OWN_DIM) -> Vectors:
    vector = np.random.default_rng(list(item.encode())).normal(size=dim)
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.fixture
def shop(tmp_path: Path, store_place: Path | str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    shop = Shop(tmp_path, store_place, monkeypatch)
    yield shop
    shop.edited.store.close()


@examples(60)
@given(st.lists(numbers, min_size=OWN_DIM, max_size=OWN_DIM).filter(lambda values: any(abs(v) > 1e-30 for v in values)))
def test_a_finite_vector_is_scaled_to_unit_length(values: list[float]) -> None:
    found = checked({IMAGES: values}, lambda: SPACES)[IMAGES]
    assert found.version == "v1"
    assert float(np.linalg.norm(found.vector.astype(np.float64))) == pytest.approx(1, abs=1e-6)
    given_values = np.array(values)
    np.testing.assert_allclose(found.vector, given_values / np.sqrt(np.square(given_values).sum()), atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "why"),
    [
        ({IMAGES: [1.0, 2.0]}, r"\$\.vectors\.images has 2 numbers, the space has 4"),
        ({IMAGES: []}, r"has 0 numbers, the space has 4"),
        ({IMAGES: [0.0] * OWN_DIM}, r"is of length 0"),
        ({IMAGES: [1e-200] * OWN_DIM}, r"is of length 0"),
        ({IMAGES: [1e200] * OWN_DIM}, r"is of length inf"),
        ({IMAGES: [1.0, float("nan"), 0.0, 0.0]}, r"is of length nan"),
        ({IMAGES: [1.0, float("inf"), 0.0, 0.0]}, r"is of length inf"),
        ({"image": [1.0] * OWN_DIM}, r"'image', which is no space .* did you mean 'images'.*recserve train vectors"),
        ({IMAGES: [1.0] * OWN_DIM, "text": [1.0] * OWN_DIM}, r"'text', which is no space"),
    ],
)
def test_what_is_no_vector_of_the_space_is_refused(vectors: dict[str, list[float]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked(vectors, lambda: SPACES)


def test_an_item_without_vectors_reads_no_index() -> None:
    def fail() -> dict[str, OwnSpace]:
        raise AssertionError

    assert checked({}, fail) == {}


@pytest.mark.parametrize("bad", ["[1, 2]", '["1", 0, 0, 0]', "[true, 0, 0, 0]", "[null, 0, 0, 0]", "[1e999, 0, 0, 0]"])
def test_one_bad_vector_fails_alone(shop: Shop, bad: str) -> None:
    items = [
        {"id": "bad", "texts": {"title": "bad"}, "vectors": {IMAGES: "BAD"}},
        {"id": "good", "texts": {"title": "good"}, "vectors": {IMAGES: [0, 3, 4, 0]}},
    ]
    raw = json.dumps({"op": "upsert", "items": items}).replace('"BAD"', bad).encode()
    editor = shop.edited.editor
    editor.begin()
    job = editor.accept(raw)
    editor.look_up([job])
    assert [checked.refusal is not None for checked in job.checked] == [True, False]
    assert "$.vectors" in str(job.checked[0].refusal)


def test_a_vector_counts_at_once_and_stays(shop: Shop) -> None:
    """Through an upsert without it, a compaction, an import, a restart; a deleted item is gone."""
    assert shop.vector("new") is None
    assert shop.upsert("new", [0, 3, 4, 0]) == "created"
    own = pytest.approx([0, 0.6, 0.8, 0])
    assert shop.vector("new") == own
    assert shop.upsert("new", available=True, attributes={"year": 2001}) == "updated"
    assert shop.vector("new") == own
    shop.compact()
    assert shop.vector("new") == own
    assert shop.view().snapshot.spaces[IMAGES].upserted is not None
    assert shop.upsert("new", attributes={"year": 2002}) == "updated"
    assert shop.vector("new") == own
    assert shop.upsert("i3", [1, 0, 0, 0]) == "updated"
    assert shop.vector("i3") == [1, 0, 0, 0]
    shop.compact()
    assert shop.vector("i3") == [1, 0, 0, 0]
    assert shop.edited.statuses("delete", {"id": "new"}, {"id": "i3"}) == ["deleted", "deleted"]
    assert shop.vector("new") is None
    with CatalogueStore(shop.where or shop.workspace.store) as again:
        assert again.own_vectors([IMAGES]) == {}


def test_a_deleted_item_that_comes_back_has_no_vector_of_before(shop: Shop) -> None:
    for is_compacted in (False, True):
        shop.upsert("new", [0, 3, 4, 0])
        if is_compacted:
            shop.compact()
        shop.edited.change("delete", [{"id": "new"}])
        assert shop.upsert("new") == "created"
        assert shop.vector("new") is None
    shop.compact()
    assert shop.vector("new") is None


def test_the_same_vector_again_changes_nothing(shop: Shop) -> None:
    assert shop.upsert("new", [0, 3, 4, 0]) == "created"
    revision = shop.edited.store.revision
    assert shop.upsert("new", [0.0, 6.0, 8.0, 0.0]) == "unchanged"
    assert shop.edited.store.revision == revision
    assert shop.upsert("new", [0, 3, 4, 1]) == "updated"
    assert shop.edited.asked.count("film new") == 1


def test_the_newer_of_a_file_and_an_upsert_counts(shop: Shop) -> None:
    shop.upsert("i3", [1, 0, 0, 0])
    shop.upsert("new", [0, 1, 0, 0])
    shop.train(seed="again ")
    assert shop.vector("i3") == pytest.approx(of_file("again i3").tolist())
    assert shop.vector("new") == [0, 1, 0, 0]
    assert shop.upsert("i3", [1, 0, 0, 0]) == "updated"
    assert shop.vector("i3") == [1, 0, 0, 0]
    shop.compact()
    assert shop.vector("i3") == [1, 0, 0, 0]
    assert shop.upsert("i4", [0, 0, 0, 1]) == "updated"
    roll_back_space(shop.workspace, IMAGES, store=shop.where)
    for item, vector in {"i3": [1, 0, 0, 0], "i4": [0, 0, 0, 1], "new": [0, 1, 0, 0]}.items():
        assert shop.vector(item) == vector


def test_a_version_of_another_length_leaves_out_what_does_not_fit(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.upsert("new", [0, 3, 4, 0])
    shop.upsert("i3", [1, 0, 0, 0])
    shop.train(dim=6)
    assert shop.vector("new") is None
    assert shop.vector("i3") == pytest.approx(of_file("i3", 6).tolist())
    said = [(record.name.rpartition(".")[0], record.message) for record in caplog.records]
    what = "2 vectors of items have other lengths than 6, that of the space 'images'; upsert them again"
    assert said == [("recserve_export.index", what), ("recserve_server_ext.catalogue", what)]
    assert "has 4 numbers, the space has 6" in shop.upsert("new", [0, 3, 4, 0])
    assert shop.upsert("new", [0, 0, 0, 0, 0, 2]) == "updated"
    shop.compact()
    assert shop.vector("new") == [0, 0, 0, 0, 0, 1]


def test_an_import_keeps_the_vectors_of_items_that_stay(shop: Shop) -> None:
    for item in ("i20", "i21"):
        shop.upsert(item, [0, 3, 4, 0])
    stay = [StoredItem(f"i{n}", {"title": f"other {n}"}, {}) for n in range(21)]
    shop.edited.store.replace_all(stay, field_weights=WEIGHTS)
    assert set(shop.edited.store.own_vectors([IMAGES])[IMAGES]) == {"i20"}


def test_without_a_readable_index_only_items_with_vectors_wait(shop: Shop) -> None:
    shop.train(seed="published since ")
    (current(shop.edited.snapshots) / "manifest.json").write_bytes(b"damaged")
    with pytest.raises(RequestError, match="try again"):
        shop.upsert("new", [0, 3, 4, 0])
    assert shop.upsert("new") == "created"


def test_a_store_of_the_first_schema_is_migrated(tmp_path: Path, store_place: Path | str) -> None:
    with CatalogueStore(store_place, create=True) as store, store.database.writing() as connection:
        own_vectors.drop(connection)
        connection.exec_driver_sql("UPDATE catalogue_version SET version_num = '0001'")
    with CatalogueStore(store_place) as store:
        assert store.own_vectors([IMAGES]) == {}
