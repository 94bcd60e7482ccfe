"""Types of the attributes of available items, with the number of items that have them."""

from collections import Counter

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_CHUNK = 1000


def upgrade() -> None:
    table = op.create_table(
        "attribute_types",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, primary_key=True),
        sa.Column("holders", _big, nullable=False),
    )
    counts = _counted(op.get_bind())
    rows = [{"name": name, "type": type_, "holders": holders} for (name, type_), holders in counts.items()]
    for start in range(0, len(rows), _CHUNK):
        op.bulk_insert(table, rows[start : start + _CHUNK])


def _counted(connection: sa.Connection) -> Counter[tuple[str, str]]:
    items = sa.table("items", sa.column("position"), sa.column("attributes", sa.JSON), sa.column("available"))
    query = sa.select(items.c.position, items.c.attributes).where(items.c.available.is_(sa.true()))
    query = query.order_by(items.c.position).limit(_CHUNK)
    counts: Counter[tuple[str, str]] = Counter()
    after = -1
    while rows := connection.execute(query.where(items.c.position > after)).all():
        for _, attributes in rows:
            counts.update((name, _type_of(value)) for name, value in attributes.items() if value is not None)
        after = rows[-1][0]
    return counts


def _type_of(value: object) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, list) and value and not isinstance(value[0], str):
        return "place"
    return "string" if isinstance(value, str) else "list of strings"


def downgrade() -> None:
    op.drop_table("attribute_types")
