"""An index that holds what a history needs, so that a past is read in one piece and not row by row."""

from alembic import op

revision = "0004"
down_revision = "0003"

_NAME = "ix_interactions_user_time"
_KEY = ["user", "time_us", "number"]


def upgrade() -> None:
    op.drop_index(_NAME, "interactions")
    op.create_index(_NAME, "interactions", [*_KEY, "type", "item", "value", "duration_s", "price", "quantity"])


def downgrade() -> None:
    op.drop_index(_NAME, "interactions")
    op.create_index(_NAME, "interactions", _KEY)
