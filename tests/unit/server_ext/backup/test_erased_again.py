"""The ledger of erasures: who was erased after a backup is not brought back by it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec
import pytest

from recserve_server_ext.common.errors import InteractionError, UserKeysError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import add_key
from recserve_server_ext.interactions.key_rotation import rotate
from recserve_server_ext.interactions.ledger import Ledger, Note
from support.backups import back, backup, erase, held, record, store_of
from support.events import event

NOTE = Note("store", 3, "ab" * 32, "ring", 5, 6, 7)


@pytest.fixture
def new(workspace: Workspace, tmp_path: Path) -> Workspace:
    """A home that holds only the keys."""
    made = Workspace(tmp_path / "new")
    made.home.mkdir()
    shutil.copy2(workspace.pseudonym_key, made.pseudonym_key)
    return made


def late(workspace: Workspace, user: str) -> str:
    """What becomes of an interaction that comes late."""
    with store_of(workspace) as store:
        assert store.keys is not None
        (found,) = store.record([event(store.keys.pseudonyms.of(user), "late", timestamp=time.time() - 100)])
        return found.status if found.reason is None else found.reason.value


def test_who_was_erased_since_the_backup_is_erased_again(workspace: Workspace, folder: Path, new: Workspace) -> None:
    backup(workspace, folder)
    record(workspace, "cid", "i9")  # not in the backup
    for user in ("ann", "cid"):
        erase(workspace, user)
    # The home is lost; the ledger has outlived it.
    found = back(folder, new.home, ledgers=[workspace.erasures])
    assert found.erased == 1
    assert (held(new, "ann"), held(new, "bob")) == ([], ["i3"])
    assert [late(new, user) for user in ("ann", "bob", "cid")] == ["erased", "recorded", "erased"]


def test_the_ledger_of_the_folder_is_as_of_the_last_backup(workspace: Workspace, folder: Path, new: Workspace) -> None:
    first = backup(workspace, folder)
    erase(workspace, "ann")
    backup(workspace, folder)
    assert back(folder, new.home, backup=first.id).erased == 1
    assert held(new, "ann") == []
    assert Ledger(new.erasures).notes() == Ledger(workspace.erasures).notes()


def test_who_came_back_before_the_backup_stays(workspace: Workspace, folder: Path, new: Workspace) -> None:
    erase(workspace, "ann")
    record(workspace, "ann", "i8", timestamp=time.time() + 60)
    backup(workspace, folder)
    assert back(folder, new.home, ledgers=[workspace.erasures]).erased == 0
    assert held(new, "ann") == ["i8"]


def test_a_restored_store_tells_its_own_erasures_from_those_before(
    workspace: Workspace, folder: Path, tmp_path: Path, new: Workspace
) -> None:
    first = backup(workspace, folder)
    for number in range(5):
        record(workspace, "bob", f"more{number}")
    erase(workspace, "ann")
    back(folder, new.home, backup=first.id, ledgers=[workspace.erasures])
    record(new, "ann", "again", timestamp=time.time() + 60)
    second = backup(new, folder)
    third = Workspace(tmp_path / "third")
    third.home.mkdir()
    shutil.copy2(new.pseudonym_key, third.pseudonym_key)
    assert back(folder, third.home, backup=second.id, ledgers=[new.erasures, workspace.erasures]).erased == 0
    assert held(third, "ann") == ["again"]


@pytest.mark.parametrize("renewed", [True, False])
def test_a_rotation_of_the_keys_between_is_no_hindrance(
    workspace: Workspace, folder: Path, new: Workspace, *, renewed: bool
) -> None:
    backup(workspace, folder)
    erase(workspace, "bob")
    with store_of(workspace) as store:
        rotate(store, workspace.pseudonym_key, ledger=Ledger(workspace.erasures) if renewed else None)
    erase(workspace, "ann")
    marks = {note.ring for note in Ledger(workspace.erasures).notes()}
    assert len(marks) == (1 if renewed else 2)
    with pytest.raises(UserKeysError, match="is noted under the keys"):
        back(folder, new.home, ledgers=[workspace.erasures])
    shutil.copy2(workspace.pseudonym_key, new.pseudonym_key)
    assert back(folder, new.home, ledgers=[workspace.erasures]).erased == 2
    assert (held(new, "ann"), held(new, "bob")) == ([], [])


def test_a_backup_after_a_rotation_needs_the_keys_to_erase(
    workspace: Workspace, folder: Path, new: Workspace, tmp_path: Path
) -> None:
    with store_of(workspace) as store:
        rotate(store, workspace.pseudonym_key)
    backup(workspace, folder)
    new.pseudonym_key.unlink()
    assert back(folder, tmp_path / "other").ring != ""  # nobody to erase
    erase(workspace, "ann")
    with pytest.raises(UserKeysError, match="the key file is needed"):
        back(folder, new.home, ledgers=[workspace.erasures])
    shutil.copy2(workspace.pseudonym_key, new.pseudonym_key)
    assert back(folder, new.home, ledgers=[workspace.erasures]).erased == 1


def test_other_keys_than_those_of_the_backup_are_refused(workspace: Workspace, folder: Path, new: Workspace) -> None:
    backup(workspace, folder)
    new.pseudonym_key.unlink()
    add = new.pseudonym_key
    add.write_text("ab" * 32 + "\n")
    add.chmod(0o600)
    add_key(add)
    with pytest.raises(UserKeysError, match="were made by other keys"):
        back(folder, new.home)
    assert sorted(path.name for path in new.home.iterdir() if path.name[0] != ".") == ["pseudonym.key"]


def test_the_ledger_names_nobody(workspace: Workspace) -> None:
    with store_of(workspace) as store:
        assert store.keys is not None
        pseudonym = store.keys.pseudonyms.of("ann")
    erase(workspace, "ann")
    (line,) = workspace.erasures.read_bytes().splitlines()
    assert pseudonym.encode() not in line
    assert b"ann" not in line
    assert workspace.erasures.stat().st_mode & 0o077 == 0


def test_an_erasure_that_cannot_be_noted_is_not_done(workspace: Workspace) -> None:
    workspace.erasures.mkdir()
    with pytest.raises(InteractionError, match=r"the ledger of erasures .* cannot be written: Is a directory"):
        erase(workspace, "ann")
    assert held(workspace, "ann") == ["i1", "i2"]


def test_what_a_killed_process_left_of_a_line_spoils_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert ledger.notes() == []
    ledger.add([NOTE])
    with ledger.path.open("ab") as file:
        file.write(b'{"store":"s","rev')
    assert ledger.notes() == [NOTE]
    other = msgspec.structs.replace(NOTE, revision=4)
    assert ledger.merge([NOTE, other, other]) == 1
    assert ledger.notes() == [NOTE, other]


@pytest.mark.parametrize("line", [b'{"store": 1}\n', b"x\n", b"\xff\n"])
def test_a_damaged_line_is_a_fault(tmp_path: Path, line: bytes) -> None:
    ledger = Ledger(tmp_path / "ledger")
    ledger.add([NOTE])
    ledger.path.write_bytes(line + ledger.path.read_bytes())
    with pytest.raises(InteractionError, match="cannot be read"):
        ledger.notes()
