"""Backups: what they hold, what is written again, and that nothing damaged, cut or foreign is restored."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from recserve_server_ext.backup.create import create
from recserve_server_ext.backup.manifest import BackupManifest, File, Link, kept_backups, write_manifest
from recserve_server_ext.backup.sealing import KEY_VARIABLE, Plain, Sealed, sealing_by
from recserve_server_ext.backup.verify import prune, read_tree, verify
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.errors import BackupError, CatalogueError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.storage.database import Database
from support.backups import KEY, OTHER_KEY, SETTINGS, back, backup, held, record

SEALINGS = [pytest.param(Plain(), id="plain"), pytest.param(KEY, id="sealed")]


def contents(home: Path) -> dict[str, bytes | str]:
    """Every file and link of a home but the stores and hidden ones."""
    found: dict[str, bytes | str] = {}
    for path in sorted(home.rglob("*")):
        name = path.relative_to(home).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_file() and ".db" not in name and not path.name.startswith("."):
            found[name] = path.read_bytes()
    return found


def ids(workspace: Workspace) -> list[str]:
    with CatalogueStore(workspace.store) as store:
        return [item.id for item in store.items()]


@pytest.mark.parametrize("sealing", SEALINGS)
def test_a_restored_home_is_the_one_that_was_backed_up(
    workspace: Workspace, folder: Path, tmp_path: Path, sealing: Plain
) -> None:
    config = tmp_path / "serve.toml"
    config.write_text("grpc_port = 1")
    made = create(workspace, SETTINGS, folder, sealing, {"serve.toml": config})
    assert verify(folder, "", sealing)[0] == made
    new = Workspace(tmp_path / "new")
    new.home.mkdir()
    new.pseudonym_key.write_bytes(workspace.pseudonym_key.read_bytes())
    new.pseudonym_key.chmod(0o600)
    assert back(folder, new.home, sealing).ring == ""
    left_out = ("run/8001/triton.log", "encoding/journal", "spaces/TRAINING.json")
    before = {name: of for name, of in contents(workspace.home).items() if name not in left_out}
    after = contents(new.home)
    assert after.pop("settings/serve.toml") == b"grpc_port = 1"
    assert after == before
    assert ids(new) == ids(workspace)
    assert (held(new, "ann"), held(new, "bob")) == (["i1", "i2"], ["i3"])


def test_what_an_earlier_backup_holds_is_not_written_again(workspace: Workspace, folder: Path) -> None:
    first = backup(workspace, folder)
    record(workspace, "cid", "i5")
    second = backup(workspace, folder)
    assert second.bytes >= first.bytes > 5_000_000
    # The encoder is there; the store of interactions and the tree are new.
    assert second.written < first.written / 4
    assert backup(workspace, folder).written < 3000
    for one in kept_backups(folder):
        verify(folder, one.id, Plain())


def test_sealed_blocks_are_shared_under_one_key_and_tell_nothing(workspace: Workspace, folder: Path) -> None:
    backup(workspace, folder, KEY)
    assert backup(workspace, folder, KEY).written < 5000
    backup(workspace, folder, OTHER_KEY)
    stored = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for secret in (b"film 7", b"model.onnx", b"SQLite format", b"catalogue"):
        assert secret not in stored
    assert {path.stat().st_mode & 0o077 for path in folder.rglob("*") if path.is_file() and path.name != ".lock"} == {0}


@pytest.mark.parametrize("sealing", SEALINGS)
def test_a_flipped_bit_is_found_wherever_it_is(workspace: Workspace, folder: Path, sealing: Plain) -> None:
    made = backup(workspace, folder, sealing)
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert len(files) == len(made.blocks) + 1
    for path in files:
        whole = path.read_bytes()
        for at in sorted({0, len(whole) // 3, len(whole) - 2}):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(BackupError):
                verify(folder, made.id, sealing)
            with pytest.raises(BackupError):
                back(folder, folder.parent / "new", sealing)
        path.write_bytes(whole)
    assert not (folder.parent / "new").exists()
    verify(folder, made.id, sealing)


@pytest.mark.parametrize("sealing", SEALINGS)
def test_every_bit_of_a_manifest_counts(workspace: Workspace, folder: Path, sealing: Plain) -> None:
    made = backup(workspace, folder, sealing)
    path = folder / made.name
    whole = path.read_bytes()
    for at in range(0, len(whole), 11):
        changed = whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]
        path.write_bytes(changed)
        try:
            assert json.loads(changed) == json.loads(whole)  # only white space changed
        except (ValueError, AssertionError):
            with pytest.raises(BackupError):
                verify(folder, made.id, sealing)


@pytest.mark.parametrize("sealing", SEALINGS)
def test_a_missing_a_short_and_a_swapped_block_are_found(workspace: Workspace, folder: Path, sealing: Plain) -> None:
    made = backup(workspace, folder, sealing)
    first, second = sorted(made.blocks)[:2]
    one, other = (folder / "blocks" / name[:2] / name for name in (first, second))
    whole = one.read_bytes()
    for content in (whole[:-1], b"", other.read_bytes()):
        one.write_bytes(content)
        with pytest.raises(BackupError, match=f"{first} is damaged: SHA-256"):
            verify(folder, made.id, sealing)
    one.unlink()
    with pytest.raises(BackupError, match=f"{first} is missing; this backup cannot be restored"):
        verify(folder, made.id, sealing)
    # The next backup writes it again.
    backup(workspace, folder, sealing)
    verify(folder, made.id, sealing)


def test_a_sealed_block_cannot_take_the_place_of_another() -> None:
    name = KEY.name(b"a")
    stored = KEY.seal(name, b"a")
    assert KEY.unseal(name, stored) == b"a"
    for changed in (stored[:-1], stored[1:], b"", KEY.seal(KEY.name(b"b"), b"b")):
        with pytest.raises(BackupError, match="damaged"):
            KEY.unseal(name, changed)
    assert KEY.seal(name, b"a") == stored != OTHER_KEY.seal(name, b"a")


def test_the_wrong_key_is_one_line(workspace: Workspace, folder: Path) -> None:
    made = backup(workspace, folder, KEY)
    for wrong, named in ((OTHER_KEY, f"key {OTHER_KEY.fingerprint}"), (Plain(), "no key")):
        with pytest.raises(BackupError) as caught:
            verify(folder, "", wrong)
        assert str(caught.value) == (
            f"{folder / made.name} was made with key {KEY.fingerprint}, not with {named}; "
            "give the right one with --key-file"
        )


def test_a_manifest_signed_by_another_key_is_refused(workspace: Workspace, folder: Path) -> None:
    made = backup(workspace, folder, KEY)
    forged = msgspec.structs.replace(made, tree=made.tree[:-1])
    signed = write_manifest(folder, forged, OTHER_KEY)
    assert signed.key == KEY.fingerprint
    with pytest.raises(BackupError, match="checksum does not fit"):
        verify(folder, "", KEY)


def test_another_version_is_one_line(workspace: Workspace, folder: Path) -> None:
    path = folder / backup(workspace, folder).name
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(BackupError, match=r"has format 2, this version reads 1; use the version .* that made it$"):
        verify(folder, "", Plain())
    (found,) = kept_backups(folder)
    assert found.manifest is None
    assert "format 2" in found.fault


def test_a_store_of_another_version_is_refused_before_anything_is_there(
    workspace: Workspace, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(workspace.store)) as connection, connection:
        connection.execute("UPDATE catalogue_version SET version_num = '0000'")
    with monkeypatch.context() as patched:  # as the version that made the store would
        patched.setattr(Database, "_migrate", lambda *_, **__: None)
        backup(workspace, folder)
    with pytest.raises(CatalogueError, match="another version"):
        back(folder, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_one_line_and_leaves_the_backups_before(
    workspace: Workspace, small_disk: Path, tmp_path: Path
) -> None:
    (workspace.encoder / "versions" / "0001-fp32-0123456789abcdef" / "model.onnx").write_bytes(b"small")
    folder = small_disk / "backups"
    first = backup(workspace, folder)
    (workspace.home / "evaluation.json").write_bytes(os.urandom(4_000_000))
    with pytest.raises(BackupError) as caught:
        backup(workspace, folder)
    assert "No space left on device" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [one.id for one in kept_backups(folder)] == [first.id]
    verify(folder, "", Plain())
    assert not (workspace.home / ".backup").exists()


@pytest.mark.parametrize("sealing", SEALINGS)
def test_a_backup_that_is_killed_anywhere_is_none(workspace: Workspace, folder: Path, sealing: Plain) -> None:
    backup(workspace, folder, sealing)
    record(workspace, "cid", "i7")
    there = [1]
    while not _killed(len(there) - 1, workspace, folder, sealing):
        there.append(len(kept_backups(folder)))
        for one in kept_backups(folder):
            verify(folder, one.id, sealing)
    # The last step makes the name of the manifest durable: then the backup is there, and whole.
    assert len(there) > 10
    assert set(there[:-1]) == {1}
    assert list(folder.rglob("*.tmp")) != []
    prune(folder, 1)
    assert list(folder.rglob("*.tmp")) == []
    verify(folder, "", sealing)


def _killed(step: int, workspace: Workspace, folder: Path, sealing: Plain) -> bool:
    """Make a backup in a process that is killed at its n-th change of a disk; whether it ended before."""
    child = os.fork()
    if not child:
        _die_at_step(step)
        backup(workspace, folder, sealing)
        os._exit(0)
    return not os.waitpid(child, 0)[1]


def test_a_restore_that_is_killed_leaves_the_home_as_it_was(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    backup(workspace, folder)
    home = tmp_path / "new"
    step = 0
    while True:
        child = os.fork()
        if not child:
            _die_at_step(step)
            back(folder, home)
            os._exit(0)
        if not os.waitpid(child, 0)[1]:
            break
        step += 3
        if home.exists():  # only after the last rename
            assert contents(home).keys() == contents(workspace.home).keys() - {
                "run/8001/triton.log",
                "encoding/journal",
                "spaces/TRAINING.json",
                "pseudonym.key",
            }
            shutil.rmtree(home)
    assert step > 3
    assert ids(Workspace(home)) == ids(workspace)


def _die_at_step(step: int) -> None:
    """Kill this process at the n-th change of a disk."""
    left = step

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*given: object, **more: object) -> object:
            nonlocal left
            if not left:
                os.kill(os.getpid(), 9)
            left -= 1
            return real(*given, **more)

        setattr(os, name, call)

    for name in ("replace", "rename", "fsync", "link"):
        counted(name)


def test_what_is_written_meanwhile_is_there_whole_or_not_at_all(
    workspace: Workspace, folder: Path, tmp_path: Path
) -> None:
    done = threading.Event()

    def write() -> None:
        number = 0
        while not done.is_set():
            record(workspace, "dan", f"a{number}", f"b{number}")  # one transaction
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = [backup(workspace, folder) for _ in range(3)]
    finally:
        done.set()
        writer.join()
    for number, one in enumerate(made):
        new = Workspace(tmp_path / str(number))
        back(folder, new.home, backup=one.id)
        new.pseudonym_key.write_bytes(workspace.pseudonym_key.read_bytes())
        new.pseudonym_key.chmod(0o600)
        items = held(new, "dan")
        assert items == [f"{kind}{at}" for at in range(len(items) // 2) for kind in "ab"]
        assert items == held(workspace, "dan")[: len(items)]


def test_old_backups_go_with_what_nobody_needs(workspace: Workspace, folder: Path) -> None:
    model = workspace.encoder / "versions" / "0001-fp32-0123456789abcdef" / "model.onnx"
    first = backup(workspace, folder)
    model.write_bytes(os.urandom(5_000_000))
    second, third = backup(workspace, folder), backup(workspace, folder)
    gone, size = prune(folder, 2)
    assert gone == [first.id]
    assert size > 0
    for one in (second, third):
        verify(folder, one.id, Plain())
    assert {path.name for path in (folder / "blocks").rglob("*") if path.is_file()} == set(second.blocks) | set(
        third.blocks
    )
    (folder / second.name).write_text("{}")
    with pytest.raises(BackupError, match="cannot be read"):
        prune(folder, 2)


def test_only_an_empty_home_is_restored_into(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    backup(workspace, folder)
    with pytest.raises(BackupError, match=r"is not empty: it holds catalogue\.db"):
        back(folder, workspace.home)
    with pytest.raises(BackupError, match=r"no backup '2' in .*; there are: \d"):
        back(folder, tmp_path / "new", backup="2")
    with pytest.raises(BackupError, match=r"no backup in .*; make one with: recserve backup create"):
        back(tmp_path / "none", tmp_path / "new")
    with pytest.raises(BackupError, match="goes to the home: name no database"):
        back(folder, tmp_path / "new", places={"catalogue": "postgresql://host/name"})
    with pytest.raises(BackupError, match="is in the home that is to be backed up"):
        backup(workspace, workspace.home / "backups")
    with pytest.raises(BackupError, match="there is no home at"):
        backup(Workspace(tmp_path / "none"), folder)


@pytest.mark.parametrize("path", ["/etc/cron.d/x", "home/../../x", "home/a/../../../x"])
def test_a_tree_that_leads_out_of_the_home_is_refused(
    workspace: Workspace, folder: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = backup(workspace, folder)
    tree = read_tree(folder, made, Plain())
    for changed in (
        msgspec.structs.replace(tree, files=[File(path, [], 0, 0o600)]),
        msgspec.structs.replace(tree, links=[Link("a", path)]),
    ):
        with pytest.raises(BackupError, match="leads out of the home"):
            read_tree(folder, with_tree(folder, made, msgspec.json.encode(changed)), Plain())


def with_tree(folder: Path, made: BackupManifest, tree: bytes) -> BackupManifest:
    """The manifest with another tree."""
    name = Plain().name(tree)
    path = folder / "blocks" / name[:2] / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(tree)
    return msgspec.structs.replace(made, tree=[name], blocks={**made.blocks, name: name})


def test_a_key_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "backup.key"
    path.write_text("00" * 32 + "\n")
    path.chmod(0o600)
    assert sealing_by(path, {}).fingerprint == sealing_by(None, {KEY_VARIABLE: "00" * 32}).fingerprint
    assert isinstance(sealing_by(None, {}), Plain)
    assert not isinstance(sealing_by(None, {}), Sealed)
    with pytest.raises(BackupError, match="is not 64 hexadecimal digits"):
        sealing_by(None, {KEY_VARIABLE: "00"})
    path.chmod(0o644)
    with pytest.raises(BackupError, match=r"can be read by others \(mode 0644\)"):
        sealing_by(path, {})
    with pytest.raises(BackupError, match="No such file"):
        sealing_by(tmp_path / "none", {})
