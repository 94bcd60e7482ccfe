"""Spaces beside `text`: published by training, taken over by snapshots, followed by views, searched by strategies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from recserve_client.contract import RequestError
from recserve_export.index import compact as index_compact
from recserve_export.index.compact import compact
from recserve_export.index.engine_choice import Settings
from recserve_export.index.spaces import Index, compacted_spaces, taken_over
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Content, Snapshot, write
from recserve_server_ext.index.snapshot_versions import rollback
from recserve_server_ext.index.space import VECTORS, SpaceContent, space_folder
from recserve_server_ext.index.trained import Origin, TrainedSpace, publish_space
from recserve_server_ext.index.trained_versions import current_spaces, make_current
from recserve_server_ext.retrieval.search import CandidateSpec, search
from recserve_server_ext.strategies.base import Candidates, Profile, Query
from recserve_server_ext.strategies.spaces.vector_space import UserVectors, VectorSpace
from support.data import data_over, spec_of
from support.edited import DIM, ENCODER, Edited, item_vector
from support.small_snapshot import text_space

NAME, OWN_DIM, ITEMS = "taste", 6, 30
NOBODY = np.empty(0, np.int64)


def taste(items: Sequence[str]) -> Vectors:
    """The vectors of a made-up training, by item id; not of unit length."""
    made = [np.random.default_rng(list(name.encode())).normal(size=OWN_DIM) for name in items]
    return np.asarray(np.stack(made), np.float32)


def text_map() -> Vectors:
    """(text, 1) times this is a vector of the space."""
    return np.random.default_rng(4).normal(size=(DIM + 1, OWN_DIM)).astype(np.float32)


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=ITEMS)
    yield edited
    edited.store.close()


def published(edited: Edited, spaces: Path, settings: Settings | None = None) -> Snapshot:
    """A snapshot of the store with its trained spaces, as `index build` would make it."""
    items = list(edited.store.items())
    text = np.stack([item_vector(item.texts) for item in items])
    ids = [item.id for item in items]
    index = Index(ids, text, edited.store.head().identity, ENCODER)
    taken = taken_over(current_spaces(spaces), index, settings or Settings(engine="exact"))
    for error in taken.refused.values():
        raise error
    content = Content(
        spaces={**text_space(text, ExactEngine(text)), **taken.spaces},
        ids=ids,
        encoder=ENCODER,
        revision=edited.store.revision,
        source=edited.store.head().identity,
        fields=[item.fields for item in items],
        field_weights=edited.store.head().field_weights,
    )
    return Snapshot.load(write(edited.snapshots, content), encoder=ENCODER)


def best(view: View, user: Vectors, k: int = 5) -> list[str]:
    (rows,) = search(view.space(NAME), user[None], [CandidateSpec(k, NOBODY)])
    return view.ids(rows)


def test_a_version_after_the_other_is_current(tmp_path: Path) -> None:
    ids = ["a", "b", "c"]
    first = publish_space(tmp_path, NAME, ids, taste(ids), origin=Origin(made_from={"log": "films"}))
    second = publish_space(tmp_path, NAME, ids[:2], taste(ids[:2]), text_map=text_map())
    assert current_spaces(tmp_path) == {}
    make_current(first)
    make_current(second)
    assert current_spaces(tmp_path) == {NAME: second}
    loaded, before = TrainedSpace.load(second), TrainedSpace.load(first)
    assert (loaded.ids, before.ids) == (["a", "b"], ids)
    np.testing.assert_array_equal(loaded.vectors, taste(["a", "b"]))
    assert loaded.text_map is not None
    np.testing.assert_array_equal(loaded.text_map, text_map())
    assert before.text_map is None
    assert before.manifest.made_from == {"log": "films"}


@pytest.mark.parametrize(
    ("name", "ids", "vectors", "named"),
    [
        ("text", ["a"], taste(["a"]), "cannot be called 'text'"),
        ("../up", ["a"], taste(["a"]), "cannot be called"),
        (NAME, ["a"], taste(["a"]).astype(np.float64), "float64"),
        (NAME, ["a"], np.full((1, 3), np.nan, np.float32), "finite"),
        (NAME, [], np.empty((0, 3), np.float32), r"\(0, 3\)"),
        (NAME, ["a", "a"], taste(["a", "b"]), "distinct"),
    ],
)
def test_what_is_no_space_is_refused(tmp_path: Path, name: str, ids: list[str], vectors: Vectors, named: str) -> None:
    with pytest.raises(SnapshotError, match=named):
        publish_space(tmp_path, name, ids, vectors)
    assert current_spaces(tmp_path) == {}


def test_a_damaged_version_is_refused(tmp_path: Path, edited: Edited) -> None:
    folder = publish_space(tmp_path / "spaces", NAME, ["i1"], taste(["i1"]))
    make_current(folder)
    raw = bytearray((folder / VECTORS).read_bytes())
    raw[-1] ^= 1
    (folder / VECTORS).write_bytes(raw)
    with pytest.raises(SnapshotError, match=r"vectors\.npy is damaged: .*; train the space again"):
        published(edited, tmp_path / "spaces")


def test_a_snapshot_takes_over_the_items_that_it_has(tmp_path: Path, edited: Edited) -> None:
    ids = [f"i{n}" for n in range(0, ITEMS, 2)] + ["gone"]
    make_current(publish_space(tmp_path / "spaces", NAME, ids, taste(ids)))
    snapshot = published(edited, tmp_path / "spaces")
    space = snapshot.spaces[NAME]
    assert (space.manifest.dim, space.manifest.vectors) == (OWN_DIM, len(ids) - 1)
    view = View(snapshot)
    rows = np.arange(ITEMS)
    expected = np.zeros((ITEMS, OWN_DIM), np.float32)
    for row, name in enumerate(snapshot.ids):
        if name in ids:
            expected[row] = taste([name])[0]
    np.testing.assert_array_equal(view.space(NAME).vectors(rows), expected)
    user = taste(["somebody"])[0]
    order = sorted((name for name in snapshot.ids if name in ids), key=lambda name: -float(taste([name])[0] @ user))
    assert best(view, user, 100) == order


def test_items_without_a_vector_are_mapped_from_their_texts(tmp_path: Path, edited: Edited) -> None:
    ids = [f"i{n}" for n in range(10)]
    make_current(publish_space(tmp_path / "spaces", NAME, ids, taste(ids), text_map=text_map()))
    snapshot = published(edited, tmp_path / "spaces")
    text = snapshot.text.vectors
    mapped = text @ text_map()[:-1] + text_map()[-1]
    for row, name in enumerate(snapshot.ids):
        expected = taste([name])[0] if name in ids else mapped[row]
        np.testing.assert_allclose(snapshot.spaces[NAME].vectors[row], expected, atol=1e-5)


@pytest.mark.parametrize("is_mapped", [True, False])
def test_a_view_follows_the_changes(tmp_path: Path, edited: Edited, is_mapped: bool) -> None:
    """A changed item keeps its learned vector; a new one has what the map makes of its texts, or none."""
    ids = [f"i{n}" for n in range(20)]
    make_current(publish_space(tmp_path / "spaces", NAME, ids, taste(ids), text_map=text_map() if is_mapped else None))
    published(edited, tmp_path / "spaces")
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    edited.change("upsert", [{"id": "i3", "texts": {"title": "other"}}, {"id": "new", "texts": {"title": "brand new"}}])
    edited.change("delete", [{"id": "i4"}])
    view = live.view()
    assert view.delta is not None
    space = view.space(NAME)
    rows = np.array([view.row_of.get("i3", -1), view.row_of.get("new", -1)])
    assert (rows >= ITEMS).all()
    found = space.vectors(rows)
    np.testing.assert_array_equal(found[0], taste(["i3"])[0])
    brand_new = item_vector({"title": "brand new"}) @ text_map()[:-1] + text_map()[-1]
    np.testing.assert_allclose(found[1], brand_new if is_mapped else np.zeros(OWN_DIM), atol=1e-5)
    everything = best(view, taste(["somebody"])[0], 100)
    assert "i4" not in everything
    assert ("new" in everything) == is_mapped
    assert ("i25" in everything) == is_mapped
    assert everything.count("i3") == 1


def test_compaction_keeps_the_spaces(tmp_path: Path, edited: Edited, monkeypatch: pytest.MonkeyPatch) -> None:
    class Encoder:
        fingerprint, dim = ENCODER, DIM

        def __init__(self, folder: Path, *, threads: int | None = None) -> None:
            pass

    monkeypatch.setattr(index_compact, "TextEncoder", Encoder)
    ids = [f"i{n}" for n in range(20)]
    make_current(publish_space(tmp_path / "spaces", NAME, ids, taste(ids)))
    before = published(edited, tmp_path / "spaces", Settings(engine="hnsw", m=(4,), ef=(64,), users=10, threads=1))
    assert before.spaces[NAME].engine.name == "hnsw"
    edited.change("upsert", [{"id": "new", "texts": {"title": "brand new"}}])
    edited.change("delete", [{"id": "i4"}])
    assert compact(edited.store, edited.snapshots, tmp_path, threads=1) is not None
    after = Snapshot.load(current(edited.snapshots), encoder=ENCODER)
    space = after.spaces[NAME]
    assert (space.engine.name, space.manifest.version) == ("hnsw", before.spaces[NAME].manifest.version)
    left = [name for name in after.ids if name in ids]
    assert "i4" not in left
    np.testing.assert_array_equal(space.vectors, taste(left))
    assert [after.ids[row] for row in space.place_of.argsort()[-len(left) :]] == left
    rollback(edited.snapshots, ENCODER)
    again = Snapshot.load(current(edited.snapshots), encoder=ENCODER)
    np.testing.assert_array_equal(again.spaces[NAME].vectors, before.spaces[NAME].vectors)


def test_a_flipped_bit_of_a_space_is_found(tmp_path: Path, edited: Edited) -> None:
    make_current(publish_space(tmp_path / "spaces", NAME, ["i1", "i2"], taste(["i1", "i2"])))
    published(edited, tmp_path / "spaces")
    own = space_folder(current(edited.snapshots), NAME)
    assert {file.name for file in own.iterdir()} == {VECTORS, "rows.npy", "report.json"}
    for file in own.iterdir():
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(SnapshotError, match=file.name):
            Snapshot.load(current(edited.snapshots))
        file.write_bytes(good)


@pytest.mark.parametrize("rows", [[0, 0], [1, 0], [0, ITEMS], [0]])
def test_rows_that_do_not_fit_are_refused(edited: Edited, rows: list[int]) -> None:
    vectors = taste(["a", "b"])
    own = SpaceContent(vectors=vectors, engine=ExactEngine(vectors), rows=np.array(rows))
    text = np.stack([item_vector(item.texts) for item in edited.store.items()])
    content = Content(
        spaces={**text_space(text, ExactEngine(text)), NAME: own},
        ids=[item.id for item in edited.store.items()],
        encoder=ENCODER,
        revision=1,
    )
    with pytest.raises(SnapshotError, match="one each is needed, in rising order"):
        write(edited.snapshots, content)


class Taste(VectorSpace):
    """The mean of the learned vectors."""

    space = NAME

    def user_vectors(self, queries: Sequence[Query]) -> UserVectors:
        space = self.view(queries[0])
        behaviours = space.vectors(np.array([query.profile.rows for query in queries]))
        shares = np.full(behaviours.shape[:2], 1.0 / behaviours.shape[1])
        means = np.einsum("ub,ubd->ud", shares, behaviours).astype(np.float32)
        nothing = np.zeros(len(queries), np.bool_)
        return UserVectors(means, nothing, _never, behaviours, shares)


def _never(place: int) -> RequestError:
    raise AssertionError(place)


def query_of(view: View, rows: Rows) -> Query:
    return Query(Profile(np.ones(len(rows)), rows, {}, {}, [], count=len(rows)), data_over(view), spec_of(5))


@pytest.mark.parametrize("engine", ["exact", "hnsw"])
def test_a_strategy_searches_its_own_space(tmp_path: Path, edited: Edited, engine: Literal["exact", "hnsw"]) -> None:
    ids = [f"i{n}" for n in range(0, ITEMS, 3)]
    make_current(publish_space(tmp_path / "spaces", NAME, ids, taste(ids)))
    settings = Settings(engine=engine, m=(4,), ef=(64,), users=10, threads=1)
    view = View(published(edited, tmp_path / "spaces", settings))
    assert isinstance(view.space(NAME).space.engine, HnswEngine if engine == "hnsw" else ExactEngine)
    known = np.array([view.row_of.get("i0", -1), view.row_of.get("i3", -1)])
    query, strategy = query_of(view, known), Taste("taste")
    (rows,) = strategy.candidates([query], [5])
    user = taste(["i0", "i3"]).mean(axis=0)
    expected = sorted(ids, key=lambda name: -float(taste([name])[0] @ user))[:5]
    assert view.ids(rows) == expected
    (parts,) = strategy.score([query], [Candidates(rows)])
    np.testing.assert_allclose(parts["taste"], [float(taste([name])[0] @ user) for name in expected], atol=1e-5)
    (explained,) = strategy.explain([query], [Candidates(rows)])
    assert explained.contributions is not None
    np.testing.assert_allclose(explained.contributions.sum(axis=1), parts["taste"], atol=1e-5)


def test_items_that_no_training_knows_are_young(tmp_path: Path, edited: Edited) -> None:
    ids = [f"i{n}" for n in range(20)]
    make_current(publish_space(tmp_path / "spaces", NAME, ids, taste(ids), text_map=text_map()))
    snapshot = published(edited, tmp_path / "spaces")
    view = View(snapshot)
    assert {name for name, young in zip(snapshot.ids, view.young, strict=True) if young} == set(snapshot.ids) - set(ids)
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    changed = [{"id": name, "texts": {"title": f"other {name}"}} for name in ("i3", "i25", "new")]
    edited.change("upsert", changed)
    view = live.view()
    assert [bool(view.young[view.row_of.get(name, -1)]) for name in ("i3", "i25", "new")] == [False, True, True]
    ids, text = ["new", "i3", "i25"], np.ones((3, DIM), np.float32)
    old_rows = snapshot.row_of.rows(ids)
    compacted = compacted_spaces(current(edited.snapshots), snapshot.manifest, old_rows, ids, text)[NAME]
    assert compacted.learned is not None
    assert compacted.learned.tolist() == [False, True, False]


def test_without_a_map_from_texts_nothing_is_young(tmp_path: Path, edited: Edited) -> None:
    make_current(publish_space(tmp_path / "spaces", NAME, ["i1"], taste(["i1"])))
    published(edited, tmp_path / "spaces")
    live = LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)
    edited.change("upsert", [{"id": "new", "texts": {"title": "brand new"}}])
    assert not live.view().young.any()
    assert len(live.view().young) == len(live.view().available)
