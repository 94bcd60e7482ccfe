"""Files exported from the interaction store, and erasures that reach them; on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import sqlalchemy as sa

from recserve_export.interactions.readers import InteractionFormat
from recserve_export.interactions.writers import write_interactions
from recserve_export.outcomes.export import export_outcomes
from recserve_export.outcomes.outcomes import OutcomeRules
from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import export_files
from support.answers import by_user, log_of, plain
from support.events import ANN, BOB, NOW, event

FORMATS = get_args(InteractionFormat)


@pytest.fixture
def store(store_place: Path | str) -> Iterator[InteractionStore]:
    with InteractionStore(store_place, create=True, clock=lambda: NOW) as store:
        events = [event(user, f"i{n}", context={"n": n}, session_id="s") for user in (ANN, BOB) for n in range(30)]
        store.record([*events, event(BOB, None, type="search", text='a "quoted",\nbroken line')])
        yield store


def written(store: InteractionStore, path: Path, file_format: Any) -> bytes:
    with store.exporting(path, file_format), store.all() as rows:
        assert write_interactions(path, rows, file_format)
    return path.read_bytes()


def remembered(store: InteractionStore) -> list[str]:
    with store.database.reading() as connection:
        return [Path(path).name for path in connection.execute(sa.select(export_files.c.path)).scalars()]


@pytest.mark.parametrize("file_format", FORMATS)
def test_an_erasure_reaches_a_file_and_leaves_the_others_in_it(
    store: InteractionStore, tmp_path: Path, file_format: Any
) -> None:
    path = tmp_path / f"all.{file_format}"
    written(store, path, file_format)
    store.erase(ANN)
    found = path.read_bytes()
    # As if Ann had never been there.
    assert found == written(store, tmp_path / f"again.{file_format}", file_format) or file_format == "parquet"
    if file_format == "parquet":
        import pyarrow.parquet

        (one, other) = (pyarrow.parquet.read_table(tmp_path / f"{name}.parquet") for name in ("all", "again"))
        assert one.equals(other)
        assert set(one["user"].to_pylist()) == {BOB}
    assert ANN.encode() not in found
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("file_format", ["jsonl", "parquet"])
def test_an_erasure_reaches_a_training_set(store: InteractionStore, tmp_path: Path, file_format: Any) -> None:
    log = log_of(store, plain=1.0)
    log.offer(by_user("r1"), ANN)
    log.offer(by_user("r2"), BOB)
    log.offer(plain("r3"), None)
    log.close()
    path = tmp_path / "set"
    with store.exporting(path, file_format):
        export_outcomes(store.database, path, OutcomeRules(), file_format)
    store.erase(ANN)
    if file_format == "parquet":
        import pyarrow.parquet

        names = pyarrow.parquet.read_table(path)["recommendation_id"].to_pylist()
    else:
        names = [msgspec.json.decode(line)["recommendation_id"] for line in path.read_bytes().splitlines()]
    assert names == ["r2", "r2", "r3", "r3"]


def test_what_was_exported_of_one_user_goes_with_the_user(store: InteractionStore, tmp_path: Path) -> None:
    for name, user in (("ann.json", ANN), ("bob.json", BOB)):
        with store.exporting(tmp_path / name, "user"):
            (tmp_path / name).write_bytes(msgspec.json.encode(store.export(user)))
    store.erase(ANN)
    assert (remembered(store), (tmp_path / "ann.json").exists()) == (["bob.json"], False)
    assert (tmp_path / "bob.json").exists()


def test_a_file_that_is_gone_is_forgotten_and_one_written_again_is_known_once(
    store: InteractionStore, tmp_path: Path
) -> None:
    for _ in range(2):
        written(store, tmp_path / "a.jsonl", "jsonl")
    written(store, tmp_path / "b.jsonl", "jsonl")
    assert sorted(remembered(store)) == ["a.jsonl", "b.jsonl"]
    (tmp_path / "b.jsonl").unlink()
    store.erase(ANN)
    assert remembered(store) == ["a.jsonl"]


def test_a_file_without_the_user_stays_as_it_is(store: InteractionStore, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    before = written(store, path, "jsonl")
    changed = path.stat()
    store.erase("0" * 64)
    assert (path.read_bytes(), path.stat().st_ino) == (before, changed.st_ino)


def test_a_file_that_cannot_be_cleaned_is_named_and_erasing_again_does_it(
    store: InteractionStore, tmp_path: Path
) -> None:
    path = tmp_path / "a.parquet"
    written(store, path, "parquet")
    path.write_bytes(b"no longer Parquet")
    with pytest.raises(InteractionError, match=r"a\.parquet cannot be cleaned"):
        store.erase(ANN)
    assert store.export(ANN)["interactions"] == []
    path.unlink()
    store.erase(ANN)
    assert remembered(store) == []


def test_an_export_that_an_erasure_overtakes_is_removed(store: InteractionStore, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with store.all() as rows:
        held = list(rows)

    def overtaken() -> None:
        with store.exporting(path, "jsonl"):
            store.erase(ANN)
            write_interactions(path, held, "jsonl")

    with pytest.raises(InteractionError, match="export it again"):
        overtaken()
    assert not path.exists()
