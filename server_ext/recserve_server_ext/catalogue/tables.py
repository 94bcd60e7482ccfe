"""Tables of the catalogue store; `migrations/catalogue` makes them, and a test compares the two."""

from __future__ import annotations

import sqlalchemy as sa

from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.storage.database import Schema

SCHEMA = Schema("catalogue", "0001", CatalogueError, "make one with: recserve catalogue import SOURCE")
metadata = sa.MetaData()
#: Ordered by code points, as in SQLite.
_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")

#: The items; `revision` = of the last change, `texts_revision` = of the last change of a text.
items = sa.Table(
    "items",
    metadata,
    sa.Column("position", _big, primary_key=True, autoincrement=True),
    sa.Column("id", _text, nullable=False, unique=True),
    sa.Column("texts", sa.JSON, nullable=False),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("available", sa.Boolean, nullable=False),
    sa.Column("revision", _big, nullable=False, index=True),
    sa.Column("texts_revision", _big, nullable=False),
)
#: Ids of items that are gone, until every snapshot in use is newer.
removed_items = sa.Table(
    "removed_items",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("revision", _big, nullable=False, index=True),
)
#: Vectors of items whose texts changed, until every snapshot in use has them.
vectors = sa.Table(
    "item_vectors",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("made_with", sa.Text, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
#: Types of the attributes of available items, and how many of these have them.
attribute_types = sa.Table(
    "attribute_types",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, primary_key=True),
    sa.Column("holders", _big, nullable=False),
)
#: Answers to the last writes, so that one that is sent again is answered again and not done again.
writes = sa.Table(
    "catalogue_writes",
    metadata,
    sa.Column("number", _big, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("answer", sa.LargeBinary, nullable=False),
)
#: One row; `identity` = drawn when the store was made, `imported_at` = revision of the last import, which replaced
#: every item, `forgotten` = what was removed up to this revision is not known any more.
state = sa.Table(
    "catalogue_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("revision", _big, nullable=False),
    sa.Column("imported_at", _big, nullable=False),
    sa.Column("forgotten", _big, nullable=False),
    sa.Column("field_weights", sa.JSON, nullable=False),
    sa.Column("source", sa.JSON, nullable=False),
)
