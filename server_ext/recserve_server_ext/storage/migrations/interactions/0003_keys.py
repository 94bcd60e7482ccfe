"""By which keys the pseudonyms of the store are made, so that no process uses others, and whether traces are left."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("interaction_state", sa.Column("ring", sa.Text))
    op.add_column("interaction_state", sa.Column("rotations", sa.Integer, nullable=False, server_default="0"))
    op.add_column("interaction_state", sa.Column("traces", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    for column in ("traces", "rotations", "ring"):
        op.drop_column("interaction_state", column)
