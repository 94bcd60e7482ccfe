"""Items with their last revision, what was removed, vectors of changed items, types of attributes, answered writes."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "items",
        sa.Column("position", _big, primary_key=True, autoincrement=True),
        sa.Column("id", _text, nullable=False, unique=True),
        sa.Column("texts", sa.JSON, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("available", sa.Boolean, nullable=False),
        sa.Column("revision", _big, nullable=False),
        sa.Column("texts_revision", _big, nullable=False),
    )
    op.create_index("ix_items_revision", "items", ["revision"])
    op.create_table(
        "removed_items",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("revision", _big, nullable=False),
    )
    op.create_index("ix_removed_items_revision", "removed_items", ["revision"])
    op.create_table(
        "item_vectors",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("made_with", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "attribute_types",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("holders", _big, nullable=False),
    )
    op.create_table(
        "catalogue_writes",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.Text, nullable=False, unique=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
    )
    _create_state()


def _create_state() -> None:
    state = op.create_table(
        "catalogue_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("revision", _big, nullable=False),
        sa.Column("imported_at", _big, nullable=False),
        sa.Column("forgotten", _big, nullable=False),
        sa.Column("field_weights", sa.JSON, nullable=False),
        sa.Column("source", sa.JSON, nullable=False),
    )
    zero = {"id": 1, "revision": 0, "imported_at": 0, "forgotten": 0}
    op.bulk_insert(state, [{**zero, "identity": uuid.uuid4().hex, "field_weights": {}, "source": None}])
