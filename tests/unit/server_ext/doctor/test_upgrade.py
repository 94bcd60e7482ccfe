"""`recserve upgrade`: what this version would do to a home, without doing it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from recserve_server_ext.catalogue.store import CatalogueStore, StoredItem
from recserve_server_ext.catalogue.tables import SCHEMA
from recserve_server_ext.cli.upgrade import app
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.storage import database
from recserve_server_ext.storage.versions import lacking
from support.tiny_home import copy_home

NEXT = '''"""A later schema."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("CREATE TABLE later (id INTEGER)")
'''


def check(home: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(home), *words])


def files(home: Path) -> dict[str, bytes]:
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in home.rglob("*") if path.is_file()}


def outcome(home: Path, part: str) -> str:
    """What is said of a part, in one line."""
    found = check(home, "--check")
    assert found.exit_code in (0, 1), found.stderr
    return " ".join(found.stdout[found.stdout.index(part) :].split())


def test_a_home_of_this_version_is_read_as_it_is(tiny_home: Path, tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    before = files(home)
    found = check(home, "--check")
    assert found.exit_code == 0, found.stdout + found.stderr
    for part in ("catalogue store", "encoder 0001-fp32", "snapshot 2"):
        assert part in found.stdout
    assert "!!" not in found.stdout
    assert files(home) == before
    assert check(home).exit_code == 0


def test_a_store_that_is_written_to_is_read_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.db"
    with CatalogueStore(path, create=True) as store:
        store.replace_all([StoredItem("i1", {"title": "one"}, {}, True)], field_weights={})
        assert path.with_name("catalogue.db-wal").stat().st_size > 0
        assert lacking(path, SCHEMA) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("snapshots/*/manifest.json", '"format": 6', '"format": 5', "has format 5, this version reads 6"),
        ("encoder/versions/*/encoder.json", '"format": 2', '"format": 1', "has format 1, this version reads 2"),
    ],
)
def test_other_formats_are_refused_in_a_line(
    tiny_home: Path, tmp_path: Path, name: str, old: str, new: str, expected: str
) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    (path,) = home.glob(name)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    found = check(home, "--check")
    assert found.exit_code == 1
    assert expected in " ".join(found.stdout.split())


def test_stores_of_other_versions_are_refused_in_a_line(tiny_home: Path, tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    with closing(sqlite3.connect(Workspace(home).store)) as connection, connection:
        connection.execute("UPDATE catalogue_version SET version_num = '0000'")
    before = files(home)
    assert "made by another version of recserve (schema 0000)" in outcome(home, "catalogue store")
    assert check(home).exit_code == 1
    assert files(home) == before
    with pytest.raises(CatalogueError, match="was made by another version of recserve"):
        CatalogueStore(Workspace(home).store)
    Workspace(home).store.write_bytes(b"")
    assert "is not a catalogue store" in outcome(home, "catalogue store")


def test_migrations_are_named_and_then_run(tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    own = shutil.copytree(database._MIGRATIONS, tmp_path / "migrations")
    (own / "catalogue" / "0003_later.py").write_text(NEXT)
    monkeypatch.setattr(database, "_MIGRATIONS", own)
    monkeypatch.setattr("recserve_server_ext.doctor.upgrade.CATALOGUE", SCHEMA._replace(head="0003"))
    before = files(home)
    assert "is migrated when it is opened: 0003" in outcome(home, "catalogue store")
    assert files(home) == before
    assert check(home).exit_code == 0
    with closing(sqlite3.connect(Workspace(home).store)) as connection:
        assert connection.execute("SELECT count(*) FROM later").fetchone() == (0,)
    assert lacking(Workspace(home).store, SCHEMA) == []


def test_no_home_is_a_line(tmp_path: Path) -> None:
    found = check(tmp_path / "none", "--check")
    assert found.exit_code == 1
    assert "there is no home at" in found.stderr
