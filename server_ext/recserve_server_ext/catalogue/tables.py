"""Tables of the catalogue store."""

from __future__ import annotations

import sqlalchemy as sa

from recserve_server_ext.common.errors import CatalogueError
from recserve_server_ext.storage.database import BIG_INTEGER, Schema, state_table

metadata = sa.MetaData()
#: Ordered by code points, as in SQLite.
_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

#: The items, with the revision of their last change and that of the last change of a text.
items = sa.Table(
    "items",
    metadata,
    sa.Column("position", BIG_INTEGER, primary_key=True, autoincrement=True),
    sa.Column("id", _text, nullable=False, unique=True),
    sa.Column("texts", sa.JSON, nullable=False),
    sa.Column("attributes", sa.JSON, nullable=False),
    sa.Column("available", sa.Boolean, nullable=False),
    sa.Column("revision", BIG_INTEGER, nullable=False, index=True),
    sa.Column("texts_revision", BIG_INTEGER, nullable=False),
)
#: Ids of removed items, kept until every snapshot in use is newer.
removed_items = sa.Table(
    "removed_items",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("revision", BIG_INTEGER, nullable=False, index=True),
)
#: Vectors of items whose texts changed, kept until every snapshot in use has them.
vectors = sa.Table(
    "item_vectors",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("made_with", sa.Text, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
#: Vectors that came with items for spaces of the caller's own, by the version of the space that was published then.
own_vectors = sa.Table(
    "own_vectors",
    metadata,
    sa.Column("id", _text, primary_key=True),
    sa.Column("space", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
#: The type of each attribute, and how many available items have the attribute.
attribute_types = sa.Table(
    "attribute_types",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("holders", BIG_INTEGER, nullable=False),
)
#: Answers to the last writes: a write that is sent again gets its answer again, and is not done again.
writes = sa.Table(
    "catalogue_writes",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True, autoincrement=True),
    sa.Column("request_id", sa.Text, nullable=False, unique=True),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("answer", sa.LargeBinary, nullable=False),
)
#: The state of the store; see `recserve_server_ext.catalogue.store.Head`.
state = state_table(
    "catalogue_state",
    metadata,
    sa.Column("imported_at", BIG_INTEGER, nullable=False, default=0),
    sa.Column("forgotten", BIG_INTEGER, nullable=False, default=0),
    sa.Column("field_weights", sa.JSON, nullable=False, default={}),
    sa.Column("source", sa.JSON, nullable=False, default=sa.JSON.NULL),
)
SCHEMA = Schema(
    name="catalogue",
    head="0002",
    tables=metadata,
    state=state,
    error=CatalogueError,
    advice="make one with: recserve catalogue import SOURCE",
)
