"""Which snapshots there are, changing between them, and falling back from a damaged one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.pointers import CURRENT, current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.snapshot_versions import activate, collect, first_usable, kept, rollback
from support.edited import ENCODER, Edited


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Edited]:
    edited = Edited(tmp_path, tmp_path / "catalogue.db", items=5)
    edited.change("delete", [{"id": "i0"}])
    edited.publish()
    yield edited
    edited.store.close()


def flip(folder: Path, name: str = "spaces/text/vectors.npy") -> None:
    """Flip one bit in the middle of a file."""
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / name).write_bytes(content)


def test_snapshots_are_listed_with_their_state(edited: Edited) -> None:
    newest, older = kept(edited.snapshots, verify=True)
    assert (newest.is_current, older.is_current) == (True, False)
    assert newest.manifest is not None
    assert newest.manifest.revision == 2
    flip(edited.snapshots / older.name)
    found = kept(edited.snapshots, verify=True)
    assert [bool(one.fault) for one in found] == [False, True]
    assert "vectors.npy" in found[1].fault
    assert not kept(edited.snapshots)[1].fault


def test_activating_and_rolling_back(edited: Edited) -> None:
    newest, older = (one.name for one in kept(edited.snapshots))
    assert rollback(edited.snapshots, ENCODER).id == older
    assert current(edited.snapshots).name == older
    with pytest.raises(SnapshotError, match=f"older than {older}"):
        rollback(edited.snapshots, ENCODER)
    assert activate(edited.snapshots, newest, ENCODER).id == newest
    assert current(edited.snapshots).name == newest


@pytest.mark.parametrize("name", ["nowhere", "..", "../elsewhere", ".lock", ""])
def test_what_is_no_snapshot_cannot_be_activated(edited: Edited, name: str) -> None:
    before = current(edited.snapshots)
    with pytest.raises(SnapshotError, match="there are: 2"):
        activate(edited.snapshots, name, ENCODER)
    assert current(edited.snapshots) == before


def test_damaged_or_foreign_snapshots_cannot_be_activated(edited: Edited) -> None:
    older = kept(edited.snapshots)[1].name
    with pytest.raises(SnapshotError, match="made with encoder test, other is served"):
        activate(edited.snapshots, older, "other")
    flip(edited.snapshots / older, "fields.arrow")
    with pytest.raises(SnapshotError, match=r"fields\.arrow"):
        activate(edited.snapshots, older, ENCODER)
    assert current(edited.snapshots).name != older


@pytest.mark.parametrize("damage", ["flip", "truncate", "gone", "manifest", "current"])
def test_the_last_good_one_serves_and_the_fault_is_told(
    edited: Edited, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    newest, older = (one.name for one in kept(edited.snapshots))
    folder = edited.snapshots / newest
    match damage:
        case "flip":
            flip(folder)
        case "truncate":
            (folder / "ids.arrow").write_bytes((folder / "ids.arrow").read_bytes()[:-9])
        case "gone":
            shutil.rmtree(folder)
        case "manifest":
            flip(folder, "manifest.json")
        case "current":
            (edited.snapshots / CURRENT).write_bytes(b"\xff\xfe")
    with caplog.at_level(logging.ERROR):
        found = first_usable(edited.snapshots, partial(Snapshot.load, encoder=ENCODER))
    assert found.manifest.id == (newest if damage == "current" else older)
    assert "is used instead" in caplog.text


def test_with_no_good_one_left_the_first_fault_is_raised(edited: Edited) -> None:
    for one in kept(edited.snapshots):
        flip(edited.snapshots / one.name)
    with pytest.raises(SnapshotError, match=current(edited.snapshots).name):
        first_usable(edited.snapshots, partial(Snapshot.load, encoder=ENCODER))


def test_collecting_leaves_the_published_one(edited: Edited) -> None:
    (edited.snapshots / ".half.tmp").mkdir()
    older = kept(edited.snapshots)[1].name
    assert collect(edited.snapshots) == [".half.tmp", older]
    assert [one.is_current for one in kept(edited.snapshots)] == [True]
