"""Rotation of the key, on SQLite and PostgreSQL: all of every user is there under a new pseudonym, killed or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from recserve_server_ext.common.errors import ConfigError, InteractionError, UserKeysError
from recserve_server_ext.interactions.erasure import is_receipt_of, receipt_of
from recserve_server_ext.interactions.key_file import KEY_VARIABLE, read_pseudonyms
from recserve_server_ext.interactions.key_rotation import rotate
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import erased, state
from support import rotating_process
from support.events import NOW, event
from support.rotation import GONE, NAMES, all_held, check_whole, events_of, filled, held, of, opened

LONG_S = 60


def test_everything_of_every_user_is_there_under_new_pseudonyms(store_place: Path | str, key_file: Path) -> None:
    with filled(store_place, key_file) as store:
        before, names = all_held(store), {of(store, name) for name in [*NAMES, GONE]}
        check_whole(store, before)
    for number in (1, 2):
        with InteractionStore(store_place) as other:
            seen: list[int] = []
            found = rotate(other, key_file, seen.append)
            assert sum(seen) == found.users
        assert (found.users, found.tombstones, found.keys) == (12, 1, number + 1)
        with opened(store_place, key_file) as store:
            check_whole(store, before)
            new = {of(store, name) for name in [*NAMES, GONE]}
            assert not new & names
            names |= new


def test_a_rotated_store_is_the_one_that_the_new_keys_would_have_made(store_place: Path | str, key_file: Path) -> None:
    with filled(store_place, key_file) as store:
        rotate(store, key_file)
    with opened(store_place, key_file) as store:
        assert store.keys is not None
        ring = store.keys.pseudonyms
        rotated = {name: store.export(ring.of(name)) for name in NAMES}
        for name in NAMES:
            store.erase(ring.of(name))
        with store.database.writing() as connection:
            connection.execute(sa.delete(erased))
        store.record(events_of(ring))
        for name in NAMES:
            made = store.export(ring.of(name))
            assert made["interactions"] == rotated[name]["interactions"]
            assert made["seen"] == rotated[name]["seen"]


def test_receipts_of_before_still_work(store_place: Path | str, key_file: Path) -> None:
    with filled(store_place, key_file) as store:
        assert store.keys is not None
        old = store.keys.pseudonyms
        pseudonym = old.of(GONE)
        receipt = receipt_of(old, pseudonym, store.erase(pseudonym), NOW)
        rotate(store, key_file)
    with opened(store_place, key_file) as store:
        assert store.keys is not None
        ring = store.keys.pseudonyms
        assert is_receipt_of(ring, ring.of(GONE), receipt)
        assert not is_receipt_of(ring, ring.of(NAMES[0]), receipt)
        again = receipt_of(ring, ring.of(GONE), store.erase(ring.of(GONE)), NOW)
        assert again.proof != receipt.proof
        assert is_receipt_of(ring, ring.of(GONE), again)
        assert not is_receipt_of(old, old.of(GONE), again)


def test_no_file_holds_an_id_or_an_old_pseudonym(tmp_path: Path, key_file: Path) -> None:
    folder = tmp_path / "home"
    with filled(folder / "i.db", key_file) as store:
        with store.database.reading() as connection:
            marks = list(connection.execute(sa.select(erased.c.mark)).scalars())
        old = [*(of(store, name) for name in NAMES), *marks]
        assert len(old) == 12 + 1
        before = b"".join(path.read_bytes() for path in folder.iterdir())
        assert all(name.encode() in before for name in old)
        rotate(store, key_file)
        after = b"".join(path.read_bytes() for path in folder.iterdir())
        assert not any(name.encode() in after for name in old)
        assert not any(name.encode() in after for name in (GONE, "user 11\0"))
        with store.database.reading() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


class Rotator:
    """The rotating program."""

    def __init__(self, where: Path | str, key_file: Path) -> None:
        program = [sys.executable, rotating_process.__file__, str(where), str(key_file)]
        self.process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, point: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{point}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(LONG_S) == 0


def test_killed_anywhere_all_users_are_there_and_the_next_run_ends_it(store_place: Path | str, key_file: Path) -> None:
    with filled(store_place, key_file) as store:
        before = all_held(store)
    rotator = Rotator(store_place, key_file)
    for point in rotating_process.POINTS:
        with opened(store_place, key_file) as store:
            assert store.keys is not None
            rotations = store.keys.pseudonyms.rotations
        assert rotator.run(point) == "killed", point
        is_committed = point in ("after the commit", "log is empty", "end")
        with opened(store_place, key_file) as store:  # as a server that starts now
            assert store.keys is not None
            assert store.keys.pseudonyms.rotations == rotations + is_committed, point
            check_whole(store, before)
        keys = read_pseudonyms(key_file).rotations
        assert rotator.run("") == "done 0"
        with opened(store_place, key_file) as store:
            assert store.keys is not None
            # No key is left over, and a committed rotation is not made twice, but for the one that came to its end.
            assert store.keys.pseudonyms.rotations == rotations + 1 + (point == "end"), point
            added = point in ("key is aside", "end")
            assert read_pseudonyms(key_file).rotations == store.keys.pseudonyms.rotations == keys + added
            assert not store.database.one(sa.select(state.c.traces))
            check_whole(store, before)
    rotator.close()


def test_a_process_with_other_keys_is_refused(store_place: Path | str, key_file: Path, tmp_path: Path) -> None:
    with filled(store_place, key_file) as store:
        before = all_held(store)
        stale = read_pseudonyms(key_file)
        for wrong in (read_pseudonyms(tmp_path / "other.key", {}), Pseudonyms(b"x" * 32, b"y" * 32)):
            with pytest.raises(UserKeysError, match="made by other keys"):
                UserKeys(lambda wrong=wrong: wrong).settle(store.database)  # type: ignore[misc]
        rotate(store, key_file)
    with pytest.raises(UserKeysError, match="made by other keys"), InteractionStore(store_place) as store:
        UserKeys(lambda: stale).settle(store.database)
    with InteractionStore(store_place, clock=lambda: NOW) as store:  # without any keys
        for call in (lambda: store.record([event()]), lambda: store.erase(event().user)):
            with pytest.raises(UserKeysError, match="key file is needed"):
                call()
    with opened(store_place, key_file) as store:
        check_whole(store, before)


def test_no_rotation_without_the_keys_of_the_store(store_place: Path | str, key_file: Path, tmp_path: Path) -> None:
    with filled(store_place, key_file) as store:
        with pytest.raises(ConfigError, match="cannot be read"):
            rotate(store, tmp_path / "none.key")
        read_pseudonyms(tmp_path / "other.key", {})
        with pytest.raises(UserKeysError):
            rotate(store, tmp_path / "other.key")
        assert not (tmp_path / "none.key").exists()
        assert read_pseudonyms(tmp_path / "other.key").rotations == 0


def test_a_new_store_belongs_to_all_keys(tmp_path: Path, key_file: Path) -> None:
    with opened(tmp_path / "i.db", key_file) as store:
        store.record([event(of(store, "user 1"))])
        key_file.write_text(key_file.read_text() + "ab" * 32 + "\n")
        with opened(tmp_path / "new.db", key_file) as new:
            assert store.keys is not None
            assert new.keys is not None
            assert (store.keys.pseudonyms.rotations, new.keys.pseudonyms.rotations) == (0, 1)
            assert len(held(store, "user 1")["interactions"]) == 1
        assert rotate(store, key_file).keys == 2  # takes the key that is there
    assert read_pseudonyms(key_file).rotations == 1


def test_pseudonyms_of_other_keys_are_refused_with_all_that_came_with_them(
    store_place: Path | str, key_file: Path
) -> None:
    with filled(store_place, key_file) as store:
        before, old, new = all_held(store), of(store, NAMES[0]), "ab" * 48
        with pytest.raises(UserKeysError, match="export it again"):
            store.record([event(new)])
        rotate(store, key_file)
    with opened(store_place, key_file) as store:
        for foreign in (old, new):
            with pytest.raises(UserKeysError, match="export it again"):
                store.record([event(of(store, NAMES[0])), event(foreign)])
            with pytest.raises(UserKeysError, match="export it again"):
                store.erase(foreign)
        check_whole(store, before)


def test_keys_of_the_environment_take_the_new_one_from_there(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)
    with opened(tmp_path / "i.db", key_file) as store:
        store.record([event(of(store, "user 1"))])
        with pytest.raises(ConfigError, match="holds no key beyond"):
            rotate(store, tmp_path / "none.key")
        monkeypatch.setenv(KEY_VARIABLE, f"{'ab' * 32} {'cd' * 32}")
        assert rotate(store, tmp_path / "none.key").users == 1
    with opened(tmp_path / "i.db", key_file) as store:
        assert of(store, "user 1") == Pseudonyms(b"\xab" * 32, b"\xcd" * 32).of("user 1")
        assert len(held(store, "user 1")["interactions"]) == 1


def test_a_reader_in_the_way_leaves_traces_that_the_next_run_clears(
    tmp_path: Path, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recserve_server_ext.storage.database.WAIT_S", 0.0)
    with filled(tmp_path / "i.db", key_file) as store:
        old = of(store, NAMES[0]).encode()
        with InteractionStore(tmp_path / "i.db") as reader, reader.all() as rows:
            next(rows)
            with pytest.raises(InteractionError, match="run this again"):
                rotate(store, key_file)
        found = rotate(store, key_file)
    assert (found.resumed, found.keys) == (True, 2)
    assert old not in b"".join(path.read_bytes() for path in tmp_path.glob("i.db*"))
