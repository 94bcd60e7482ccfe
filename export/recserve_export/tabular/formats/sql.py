"""A table or a query of a database: SQLite or PostgreSQL by URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import sqlalchemy as sa

from recserve_export.errors import SourceError
from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import Columns, Row, flattened, nested

_BATCH: Final = 1000
_COLON: Final = re.compile(r"(?<![:\w\\]):(?=\w)")


class SqlSource:
    """The rows of a query, streamed; nothing is written to the database."""

    format = "sql"

    def __init__(self, url: str, wanted: Columns, options: ReadOptions) -> None:
        """Connect, and count the rows.

        Raises:
            SourceError: There is no such database, the query fails, or none is given.
        """
        self._wanted = wanted
        try:
            made = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise SourceError(f"{url} is no URL of a database; write sqlite:///FILE or postgresql://...") from error
        self.shown = made.render_as_string()
        if made.drivername.startswith("postgres"):
            made = made.set(drivername="postgresql+psycopg")
        elif made.get_backend_name() != "sqlite":
            raise SourceError(
                f"{self.shown} is neither SQLite nor PostgreSQL; save the table as a file, such as CSV or Parquet"
            )
        else:
            # Read only: a name that is mistyped must not make an empty file.
            made = made.set(database=f"file:{made.database}", query={"mode": "ro", "uri": "true"})
        self._engine = sa.create_engine(made)
        with self._explained() as connection:
            self._query, self.total = self._checked(connection, options.query)
        self.done = 0

    @property
    def how(self) -> str:
        """The database and the query."""
        return f"{self.shown}, {self._query}"

    def rows(self) -> Iterator[Row]:
        """Every row, in the order in which the database gives them; see `Source`."""
        paths = nested(self._wanted.columns)
        with self._explained() as connection:
            found = connection.execution_options(yield_per=_BATCH).execute(_text(self._query))
            names = list(found.keys())
            self._wanted.check_columns(names)
            for self.done, row in enumerate(found, start=1):
                values: dict[str, Any] = dict(zip(names, row, strict=True))
                yield self.done, flattened(values, paths) if paths else values

    def _checked(self, connection: sa.Connection, query: str | None) -> tuple[str, int]:
        tables = sorted([*sa.inspect(connection).get_table_names(), *sa.inspect(connection).get_view_names()])
        if query is None:
            if len(tables) != 1:
                raise SourceError(
                    f"{self.shown} has {len(tables)} tables; name one or a query with --query: {', '.join(tables)}"
                )
            query = tables[0]
        if query in tables:
            query = f"SELECT * FROM {connection.dialect.identifier_preparer.quote(query)}"
        query = query.strip().removesuffix(";")
        if not query.lower().startswith(("select", "with", "values", "table")):
            raise SourceError(
                f"no table {query!r} in {self.shown}, and no query: it does not begin with SELECT or WITH"
            )
        # The line end closes a comment at the end of the query.
        return query, int(connection.execute(_text(f"SELECT count(*) FROM ({query}\n) AS counted")).scalar_one())

    def _explained(self) -> _Connection:
        return _Connection(self._engine, self.shown)


def _text(query: str) -> sa.TextClause:
    """A query without parameters: what follows a colon is no name of one."""
    return sa.text(_COLON.sub(r"\\:", query))


class _Connection:
    """A connection whose errors come out as `SourceError`."""

    def __init__(self, engine: sa.Engine, shown: str) -> None:
        self._engine = engine
        self._shown = shown

    def __enter__(self) -> sa.Connection:
        try:
            self._connection = self._engine.connect()
        except sa.exc.SQLAlchemyError as error:
            raise SourceError(f"{self._shown} cannot be opened: {getattr(error, 'orig', None) or error}") from error
        return self._connection

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        self._connection.close()
        if isinstance(error, sa.exc.SQLAlchemyError):
            raise SourceError(f"{self._shown} cannot be read: {getattr(error, 'orig', None) or error}") from error
