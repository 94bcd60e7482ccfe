"""Which migrations a store lacks, found without changing it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from recserve_server_ext.storage.database import WAIT_S, Schema, alembic_config


def lacking(where: Path | str, schema: Schema) -> list[str]:
    """The migrations that opening a store would run, in their order; none where it is as this version wants it.

    Raises:
        StoreError: (the schema's) It cannot be read, is no such store, or another version made it.
    """
    from alembic.script import ScriptDirectory

    shown = str(where) if isinstance(where, Path) else sa.make_url(where).render_as_string()
    found = _version(where, schema, shown)
    known = [script.revision for script in ScriptDirectory.from_config(alembic_config(schema)).walk_revisions()]
    if found not in known:
        raise schema.error(
            f"{shown} was made by another version of recserve (schema {found}); name another file or an empty "
            f"database, and {schema.advice}"
        )
    return known[: known.index(found)][::-1]


def _version(where: Path | str, schema: Schema, shown: str) -> str:
    query = f"SELECT version_num FROM {schema.name}_version"
    try:
        if isinstance(where, Path):
            with closing(sqlite3.connect(_read_only(where), uri=True, timeout=WAIT_S)) as connection:
                return str(connection.execute(query).fetchone()[0])
        engine = sa.create_engine(sa.make_url(where).set(drivername="postgresql+psycopg"), hide_parameters=True)
        try:
            with engine.connect() as opened:
                return str(opened.execute(sa.text(query)).scalar_one())
        finally:
            engine.dispose()
    except (sqlite3.Error, sa.exc.SQLAlchemyError, TypeError) as error:
        why = getattr(error, "orig", None) or error
        raise schema.error(f"{shown} is not a {schema.name} store ({why}); {schema.advice}") from error


def _read_only(path: Path) -> str:
    """The URI of a file that is not written; nothing is made beside it, either, where its log is empty."""
    log = path.with_name(f"{path.name}-wal")
    is_still = not log.exists() or log.stat().st_size == 0
    return f"file:{quote(str(path.resolve()))}?{'immutable=1' if is_still else 'mode=ro'}"
