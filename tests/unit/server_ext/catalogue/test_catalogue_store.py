"""The catalogue store: what was written comes back, durable, and a failed write changes nothing."""

from __future__ import annotations

import sqlite3
import string
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.catalogue.store import CatalogueStore, ImportRecord, StoredItem
from recserve_server_ext.common.errors import CatalogueError
from support.examples import examples

WEIGHTS = {"title": 2.0, "genre": 1.0}
RECORD = ImportRecord("films", "ab" * 32, "cd" * 32, 2, 1, {"duplicate_id": 1})
OLD = [StoredItem("a", {"title": "Alien"}, {"year": 1979}), StoredItem("b", {"title": "Brazil"}, {}, available=False)]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.text(string.ascii_lowercase, min_size=1, max_size=5)
# An attribute has one type in a catalogue.
attributes = st.fixed_dictionaries(
    {},
    optional={
        "a text": texts,
        "number": st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        "flag": st.booleans() | st.none(),
        "tags": st.lists(texts, max_size=3),
    },
)
items = st.builds(
    StoredItem,
    id=texts.filter(bool),
    texts=st.dictionaries(names, texts, max_size=3),
    attributes=attributes,
    available=st.booleans(),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "catalogue.db"


@pytest.fixture
def store(path: Path) -> Iterator[CatalogueStore]:
    with CatalogueStore(path, create=True) as store:
        store.replace_all(OLD, field_weights=WEIGHTS, source=RECORD)
        yield store


def path_of(store: CatalogueStore) -> Path:
    assert store.database.path is not None
    return store.database.path


def test_a_new_store_is_empty(path: Path) -> None:
    with CatalogueStore(path, create=True) as store:
        assert (store.revision, store.count(), store.head().field_weights, store.source()) == (0, 0, {}, None)
        assert list(store.items()) == []


@examples(30)
@given(st.lists(items, max_size=8, unique_by=lambda item: item.id), st.integers(1, 3))
def test_items_come_back_as_they_were_and_in_order(written: list[StoredItem], chunk: int) -> None:
    with tempfile.TemporaryDirectory() as folder, CatalogueStore(Path(folder) / "c.db", create=True) as store:
        store.replace_all(written, field_weights={})
        assert list(store.items(chunk)) == written
        assert store.count() == len(written)
        assert all(store.get(item.id) == item for item in written)


def test_it_survives_closing(path: Path) -> None:
    with CatalogueStore(path, create=True) as store:
        store.replace_all(OLD, field_weights=WEIGHTS, source=RECORD)
    with CatalogueStore(path) as store:
        assert (store.revision, store.head().field_weights, store.source()) == (1, WEIGHTS, RECORD)
        assert list(store.items()) == OLD


def test_the_file_is_in_wal_mode_and_every_commit_is_fsynced(store: CatalogueStore) -> None:
    with sqlite3.connect(path_of(store)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    with store.database.reading() as inside:
        assert inside.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_each_replacement_is_one_revision_more(store: CatalogueStore) -> None:
    assert store.replace_all(OLD[:1], field_weights={"title": 1.0}) == 2
    assert store.replace_all([], field_weights={}) == 3
    assert (store.revision, store.count(), store.head().field_weights, store.source()) == (3, 0, {}, None)


def test_the_source_may_be_made_after_the_last_item(store: CatalogueStore) -> None:
    seen: list[str] = []

    def stream() -> Iterator[StoredItem]:
        for item in OLD:
            seen.append(item.id)
            yield item

    def record() -> ImportRecord:
        return ImportRecord("x", "", "", len(seen), 0, {})

    store.replace_all(stream(), field_weights={}, source=record)
    source = store.source()
    assert source is not None
    assert source.accepted == 2


def unchanged(store: CatalogueStore) -> bool:
    with CatalogueStore(path_of(store)) as other:  # a second connection sees only what was committed
        return (other.revision, list(other.items()), other.source()) == (1, OLD, RECORD)


def test_failing_half_way_leaves_the_old_catalogue(store: CatalogueStore) -> None:
    def stream() -> Iterator[StoredItem]:
        for number in range(2500):
            yield StoredItem(str(number), {"title": "x"}, {})
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        store.replace_all(stream(), field_weights={})
    assert unchanged(store)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (StoredItem("a", {}, {}), "'a'.*occurred before"),
        (StoredItem("n", {}, {"price": float("nan")}), "'n': attribute 'price' is nan"),
        (StoredItem("i", {}, {"price": float("-inf")}), "must be finite"),
        (StoredItem("s", {"title": "\ud800"}, {}), "'s' cannot be stored"),
        (StoredItem("\udc00", {}, {}), "cannot be stored"),
        (StoredItem("o", {}, {"x": object()}), "cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_whole(store: CatalogueStore, bad: StoredItem, message: str) -> None:
    with pytest.raises(CatalogueError, match=message):
        store.replace_all([*OLD, bad], field_weights={})
    assert unchanged(store)


def test_a_reader_sees_one_revision_while_another_is_written(store: CatalogueStore) -> None:
    with CatalogueStore(path_of(store)) as reader:
        reading = reader.items(chunk=1)
        first = next(reading)
        store.replace_all([StoredItem("new", {"title": "x"}, {})], field_weights={})
        assert [first, *reading] == OLD
        assert [item.id for item in reader.items()] == ["new"]


def test_a_missing_item_is_none(store: CatalogueStore) -> None:
    assert store.get("zzz") is None


def test_a_missing_file_says_how_to_make_one(path: Path) -> None:
    with pytest.raises(CatalogueError, match="recserve catalogue import"):
        CatalogueStore(path)
    assert not path.parent.exists()


def test_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text.db"
    text.write_bytes(b"not a database" * 400)
    with pytest.raises(CatalogueError, match="not a database"):
        CatalogueStore(text, create=True)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE users (name TEXT)")
    before = foreign.read_bytes()
    with pytest.raises(CatalogueError, match="not a catalogue store"):
        CatalogueStore(foreign, create=True)
    assert foreign.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CatalogueError, match="cannot be made"):
        CatalogueStore(tmp_path / "file" / "c.db", create=True)


def test_a_store_locked_by_another_writer_says_so(store: CatalogueStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.0)
    with CatalogueStore(path_of(store)) as second:
        blocker = sqlite3.connect(path_of(store))
        blocker.execute("BEGIN IMMEDIATE")
        try:
            with pytest.raises(CatalogueError, match="database is locked"):
                second.replace_all([], field_weights={})
        finally:
            blocker.close()
    assert unchanged(store)
