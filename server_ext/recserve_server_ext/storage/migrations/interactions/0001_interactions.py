"""Users by pseudonym, what they did and saw, tombstones of erased users, logged answers, experiments, the revision."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_MEASURES = ["value", "duration_s", "price", "quantity"]


def upgrade() -> None:
    op.create_table(
        "interaction_users",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("pseudonym", sa.Text, nullable=False, unique=True),
        sa.Column("changes", sa.Integer, nullable=False),
    )
    op.create_table(
        "interactions",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("user", _big, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("time_us", _big, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("item", sa.Text),
        sa.Column("text", sa.Text),
        *(sa.Column(name, sa.Double) for name in _MEASURES),
        sa.Column("recommendation_id", sa.Text),
        sa.Column("session_id", sa.Text),
        sa.Column("context", sa.JSON),
        sa.UniqueConstraint("event_id", "user"),
    )
    past = ["user", "time_us", "number", "type", "item", *_MEASURES]
    op.create_index("ix_interactions_user_time", "interactions", past)
    _create_traces()
    _create_log()
    _create_state()


def _create_traces() -> None:
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


def _create_log() -> None:
    op.create_table(
        "answers",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("recommendation_id", sa.Text, nullable=False, unique=True),
        sa.Column("user", _big),
        sa.Column("time_us", _big, nullable=False),
        sa.Column("strategy", sa.Text, nullable=False),
        sa.Column("variants", sa.Text, nullable=False),
        sa.Column("forced", sa.Boolean, nullable=False),
        sa.Column("sampling", sa.Double, nullable=False),
        sa.Column("size", sa.Integer, nullable=False),
        sa.Column("recommended", sa.Text, nullable=False),
        sa.Column("propensities", sa.Text),
        sa.Column("revision", _big, nullable=False),
        sa.Column("encoder", sa.Text, nullable=False),
        sa.Column("rules", sa.Text),
    )
    op.create_index("ix_answers_user", "answers", ["user"])
    op.create_table(
        "experiments",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("first_us", _big, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
    )


def _create_state() -> None:
    state = op.create_table(
        "interaction_state",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("revision", _big, nullable=False),
        sa.Column("ring", sa.Text),
        sa.Column("rotations", sa.Integer, nullable=False),
        sa.Column("traces", sa.Boolean, nullable=False),
    )
    first = {"id": 1, "identity": uuid.uuid4().hex, "revision": 0, "rotations": 0, "traces": False}
    op.bulk_insert(state, [first])
