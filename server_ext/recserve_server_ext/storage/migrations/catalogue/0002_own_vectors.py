"""Vectors that come with items, for spaces of the caller's own."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "own_vectors",
        sa.Column("id", sa.Text().with_variant(sa.Text(collation="C"), "postgresql"), primary_key=True),
        sa.Column("space", sa.Text, primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
