"""Ids and rows of a snapshot, mapped: every id finds its row, and no other does."""

from __future__ import annotations

import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index import item_ids
from recserve_server_ext.index.item_ids import ROW_TABLE, ItemIds, RowTable, write_row_table

some_ids = st.lists(st.text(st.characters(codec="utf-8")), unique=True, min_size=1, max_size=40)


def ids_of(ids: list[str]) -> ItemIds:
    return ItemIds(pa.array(ids, pa.large_string()))


def table_of(ids: ItemIds) -> RowTable:
    with TemporaryDirectory() as folder:
        write_row_table(Path(folder), list(ids))
        return RowTable.load(Path(folder), ids)


@given(ids=some_ids, others=st.lists(st.text()), skipped=st.integers(0, 3))
def test_ids_and_rows_are_those_of_a_list_and_a_dict(ids: list[str], others: list[str], skipped: int) -> None:
    found = ItemIds(pa.array(["x"] * skipped + ids, pa.large_string())[skipped:])
    table = table_of(found)
    expected = {item_id: row for row, item_id in enumerate(ids)}
    assert list(found) == [found[row] for row in range(len(ids))] == list(found[:]) == ids
    assert found[-1] == ids[-1]
    assert dict(table) == expected
    asked = [*others, *ids, *ids]
    rows = [expected.get(item_id, -1) for item_id in asked]
    # Few and many at a time, looked up and then known.
    assert all(table_of(found).rows(asked * times).tolist() == rows * times for times in (1, 30))
    assert all(table.rows(asked * times).tolist() == rows * times for times in (1, 30))
    for item_id in [*others, *ids]:
        assert table.get(item_id, -1) == expected.get(item_id, -1)
        assert (item_id in table) == (item_id in expected)


def test_a_row_that_is_not_there_is_an_error() -> None:
    ids = ids_of(["a", "b"])
    with pytest.raises(IndexError):
        ids[2]
    with pytest.raises(KeyError, match="c"):
        table_of(ids)["c"]


def test_ids_of_one_bucket_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zlib, "crc32", lambda _: 5)
    names = [f"i{row}" for row in range(100)]
    table = table_of(ids_of(names))
    assert [table.get(name, -1) for name in [*names, "i100"]] == [*range(100), -1]
    assert table.rows([*names, "i100"]).tolist() == [*range(100), -1]


def test_known_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_ids, "_READY", 40)
    names = [f"i{row}" for row in range(90)]
    table = table_of(ids_of(names))
    for start in range(0, 90, 30):
        assert table.rows(names[start : start + 30]).tolist() == list(range(start, start + 30))
        assert len(table._ready) <= 40
    assert [table[name] for name in names] == list(range(90))
    assert len(table._ready) <= 40
    assert table.rows(names).tolist() == list(range(90))
    assert len(table._ready) <= 40


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / ROW_TABLE).write_bytes(b"none")
    with pytest.raises(SnapshotError, match=ROW_TABLE):
        RowTable.load(tmp_path, ids_of(["a"]))
