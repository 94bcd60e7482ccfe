"""The films: 17,472 of them, in the SQLite file of the PyPI package bokeh-sampledata."""

from __future__ import annotations

import importlib.util
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from recserve_export.catalogue.mapping import AttributeField, FieldMapping, TextField
from recserve_export.errors import SourceError
from recserve_export.tabular.rows import Row

_PACKAGE: Final = "bokeh_sampledata"
#: Names of the cast that go into its text; the source sorts them by first name, so these are as good as any.
_CAST_NAMES: Final = 6

_COLUMNS: Final = """
    omdb.imdbID, omdb.Title, omdb.Year, omdb.Rating AS Rated, omdb.Runtime, omdb.Genre, omdb.Released, omdb.Director,
    omdb.Writer, omdb."Cast", omdb.Metacritic, omdb.imdbRating, omdb.imdbVotes, omdb.Language, omdb.Country,
    omdb.Awards, omdb.Oscars, tomatoes.Consensus, tomatoes.Meter, tomatoes.Rating, tomatoes.Reviews,
    tomatoes.userRating, tomatoes.BoxOffice, tomatoes.Production
"""


def _names(column: str) -> AttributeField:
    return AttributeField(column, "list", ", ")


#: Why these weights: docs/decisions/002-film-field-weights.md.
MAPPING: Final = FieldMapping(
    id="imdbID",
    texts={
        "title": TextField("Title"),
        "genre": TextField("Genre"),
        "director": TextField("Director", 0.5),
        "writer": TextField("Writer", 0.5),
        "cast": TextField("CastText", 0.5),
        "consensus": TextField("Consensus"),
    },
    attributes={
        "title": AttributeField("Title"),
        "year": AttributeField("Year", "int"),
        "released": AttributeField("Released"),
        "rated": AttributeField("Rated"),
        "runtime_min": AttributeField("Runtime", "int"),
        "genre": _names("Genre"),
        "director": _names("Director"),
        "writer": _names("Writer"),
        "cast": _names("Cast"),
        "language": _names("Language"),
        "country": _names("Country"),
        "production": _names("Production"),
        "consensus": AttributeField("Consensus"),
        "critics_rating": AttributeField("Rating", "float"),
        "critics_meter": AttributeField("Meter", "int"),
        "critics_reviews": AttributeField("Reviews", "int"),
        "metacritic": AttributeField("Metacritic", "int"),
        "imdb_rating": AttributeField("imdbRating", "float"),
        "imdb_votes": AttributeField("imdbVotes", "int"),
        "user_rating": AttributeField("userRating", "float"),
        "awards": AttributeField("Awards"),
        "oscars": AttributeField("Oscars", "int"),
        "box_office_usd": AttributeField("BoxOffice", "float"),
    },
)


def films_path() -> Path:
    """The SQLite file; the package itself is not imported.

    Raises:
        SourceError: The package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "_data" / "movies.db"
        if path.is_file():
            return path
    raise SourceError("the films come with the package bokeh-sampledata: pip install 'recserve[export]'")


class FilmsSource:
    """The films, row by row; a `recserve_export.tabular.rows.Source`."""

    format = "films"
    how = "the films of bokeh-sampledata"

    def __init__(self, path: Path) -> None:
        """Open the SQLite file.

        Raises:
            SourceError: It cannot be read.
        """
        self._path = path
        self.done = 0
        self.total: int = next(self._select("count(*) AS films"))["films"]

    def rows(self) -> Iterator[Row]:
        """Every film in the order of the file; see `Source`."""
        self.done = 0
        for values in self._select(_COLUMNS):
            self.done += 1
            names = (values["Cast"] or "").split(", ")[:_CAST_NAMES]
            yield self.done, {**values, "CastText": ", ".join(names)}

    def _select(self, columns: str) -> Iterator[dict[str, Any]]:
        # Immutable: a package folder may be read-only, where SQLite could not lock the file.
        uri = f"{self._path.resolve().as_uri()}?mode=ro&immutable=1"
        query = f"SELECT {columns} FROM omdb LEFT JOIN tomatoes ON tomatoes.ID = omdb.ID ORDER BY omdb.rowid"
        try:
            with closing(sqlite3.connect(uri, uri=True)) as connection:
                connection.row_factory = sqlite3.Row
                for row in connection.execute(query):
                    yield dict(row)
        except sqlite3.Error as error:
            raise SourceError(f"the films in {self._path} cannot be read: {error}") from error
