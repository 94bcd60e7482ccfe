"""Answers that were logged, by pseudonym, and the experiments that were served."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("number", _big, primary_key=True, autoincrement=True),
        sa.Column("recommendation_id", sa.Text, nullable=False, unique=True),
        sa.Column("pseudonym", sa.Text),
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
    op.create_index("ix_answers_pseudonym", "answers", ["pseudonym"])
    op.create_table(
        "experiments",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, primary_key=True),
        sa.Column("first_us", _big, nullable=False),
        sa.Column("weights", sa.Text, nullable=False),
    )


def downgrade() -> None:
    for table in ("experiments", "answers"):
        op.drop_table(table)
