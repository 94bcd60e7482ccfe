"""Users by pseudonym, their interactions, the items they saw, tombstones of erased users, the revision."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "interaction_users",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("pseudonym", sa.Text, nullable=False, unique=True),
        sa.Column("untrimmed", sa.Integer, nullable=False),
    )
    op.create_table(
        "interactions",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("user", _big, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False, unique=True),
        sa.Column("time_us", _big, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("item", sa.Text),
        sa.Column("text", sa.Text),
        sa.Column("value", sa.Double),
        sa.Column("duration_s", sa.Double),
        sa.Column("price", sa.Double),
        sa.Column("quantity", sa.Double),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("context", sa.JSON),
    )
    op.create_index("ix_interactions_user_time", "interactions", ["user", "time_us", "number"])
    op.create_table(
        "seen_items",
        sa.Column("user", _big, primary_key=True, autoincrement=False),
        sa.Column("item", sa.Text, primary_key=True),
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("last_us", _big, nullable=False),
    )
    op.create_table(
        "erased_users",
        sa.Column("mark", sa.Text, primary_key=True),
        sa.Column("erased_us", _big, nullable=False),
        sa.Column("until_us", _big, nullable=False),
    )
    state = op.create_table(
        "interaction_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("revision", _big, nullable=False),
    )
    op.bulk_insert(state, [{"id": 1, "identity": uuid.uuid4().hex, "revision": 0}])


def downgrade() -> None:
    for table in ("interaction_state", "erased_users", "seen_items", "interactions", "interaction_users"):
        op.drop_table(table)
