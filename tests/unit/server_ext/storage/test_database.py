"""The layer below the stores: migrations, marks, transactions."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from recserve_server_ext.catalogue import tables as catalogue_tables
from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.interactions import tables as interaction_tables
from recserve_server_ext.storage import database as database_module
from recserve_server_ext.storage.database import Database, Schema

MIGRATIONS = Path(database_module.__file__).with_name("migrations")


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path / "c.db", catalogue_tables.SCHEMA, create=True)


def test_the_migrations_make_the_tables_and_end_at_the_head(database: Database) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("version_locations", str(MIGRATIONS / "catalogue"))
    config.set_main_option("path_separator", "os")
    assert ScriptDirectory.from_config(config).get_current_head() == catalogue_tables.SCHEMA.head
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "catalogue_version"})
        assert compare_metadata(context, catalogue_tables.metadata) == []


def test_the_mark_changes_with_every_commit_and_only_then(database: Database) -> None:
    before = database.mark()
    assert database.mark() == before
    with database.writing() as connection:
        connection.execute(sa.update(catalogue_tables.state).values(revision=5))
    assert database.mark() != before


def test_a_failing_transaction_changes_nothing(database: Database) -> None:
    def fail() -> None:
        with database.writing() as connection:
            connection.execute(sa.update(catalogue_tables.state).values(revision=5))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert database.one(sa.select(catalogue_tables.state.c.revision)) == 0


def test_a_reader_sees_one_moment(database: Database) -> None:
    query = sa.select(catalogue_tables.state.c.revision)
    with database.reading() as reading:
        assert reading.execute(query).scalar_one() == 0
        with database.writing() as connection:
            connection.execute(sa.update(catalogue_tables.state).values(revision=5))
        assert reading.execute(query).scalar_one() == 0
    assert database.one(query) == 5


def test_the_password_of_a_url_is_not_shown() -> None:
    with pytest.raises(CatalogueError) as caught:
        Database("postgresql://someone:secret@127.0.0.1:1/x", catalogue_tables.SCHEMA)
    assert "someone:***@127.0.0.1:1/x" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("schema", [catalogue_tables.SCHEMA, interaction_tables.SCHEMA], ids=lambda schema: schema.name)
@pytest.mark.parametrize("version", ["0009", "9999"])
def test_a_store_of_another_version_is_refused_in_a_line_and_left_as_it_is(
    store_place: Path | str, schema: Schema, version: str
) -> None:
    made = Database(store_place, schema, create=True)
    with made.writing() as connection:
        connection.execute(sa.text(f"UPDATE {schema.name}_version SET version_num = '{version}'"))
    tables = sa.inspect(made._engine).get_table_names()
    for create in (False, True):
        with pytest.raises(schema.error) as caught:
            Database(store_place, schema, create=create)
        said = str(caught.value)
        assert f"{made.shown} was made by another version of recserve" in said
        assert version in said
        assert said.endswith(f"name another file or an empty database, and {schema.advice}")
        assert "\n" not in said
    assert sa.inspect(made._engine).get_table_names() == tables
    made.close()


def test_a_missing_table_is_explained(database: Database) -> None:
    assert database.path is not None
    with sqlite3.connect(database.path) as connection:
        connection.execute("DROP TABLE catalogue_state")
    with pytest.raises(CatalogueError, match=r"catalogue store .*c.db cannot be used: no such table"):
        database.one(sa.select(catalogue_tables.state.c.revision))
