"""Tables of the interaction store; `migrations/interactions` makes them, and a test compares the two."""

from __future__ import annotations

import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.storage.database import Schema

SCHEMA = Schema("interactions", "0001", InteractionError, "make one with: recserve interactions import FILE")
metadata = sa.MetaData()
_big = sa.BigInteger().with_variant(sa.Integer, "sqlite")

#: Users by a number, which all other rows have: a pseudonym is stored here and nowhere else. `changes` grows with every
#: change of what the user did or saw, and starts at random, so that a user who was erased does not come back with a
#: number that was seen before.
users = sa.Table(
    "interaction_users",
    metadata,
    sa.Column("number", _big, primary_key=True, autoincrement=True),
    sa.Column("pseudonym", sa.Text, nullable=False, unique=True),
    sa.Column("changes", sa.Integer, nullable=False),
)
#: The interactions; `number` counts them as they came, `time_us` = microseconds since 1970, `event_id` tells those of a
#: user apart.
interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("number", _big, primary_key=True, autoincrement=True),
    sa.Column("user", _big, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
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
    sa.Column("context", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("event_id", "user"),
    # Read backwards: the newest of a user come first without sorting. It holds all that a history needs but texts,
    # which are too long for an index of PostgreSQL: reading a past does not look at the rows themselves.
    sa.Index(
        "ix_interactions_user_time",
        "user",
        "time_us",
        "number",
        "type",
        "item",
        "value",
        "duration_s",
        "price",
        "quantity",
    ),
)
#: Every item a user had to do with, also when the interactions are gone, with the last time of each kind.
seen = sa.Table(
    "seen_items",
    metadata,
    sa.Column("user", _big, primary_key=True, autoincrement=False),
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("last_us", _big, nullable=False),
)
#: Tombstones of users that were erased: `mark` = see `recserve_server_ext.interactions.pseudonyms.tombstone_mark`.
erased = sa.Table(
    "erased_users",
    metadata,
    sa.Column("mark", sa.Text, primary_key=True),
    sa.Column("erased_us", _big, nullable=False),
    sa.Column("until_us", _big, nullable=False),
)
#: One row; `identity` = drawn when the store was made; `ring` = fingerprint of the keys that its pseudonyms are made
#: by, NULL until a process with keys came; `rotations` = keys after the first; `traces` = a rotation is committed, and
#: the files may still hold what was before it.
state = sa.Table(
    "interaction_state",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("identity", sa.Text, nullable=False),
    sa.Column("revision", _big, nullable=False),
    sa.Column("ring", sa.Text),
    sa.Column("rotations", sa.Integer, nullable=False),
    sa.Column("traces", sa.Boolean, nullable=False),
)
#: Answers of `recommend` that were logged, by `number` as they were written. `variants`, `recommended` and
#: `propensities` are JSON: {"experiment@version": "variant"} with sorted keys, item ids best first, and none where all
#: are 1.
answers = sa.Table(
    "answers",
    metadata,
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
    sa.Index("ix_answers_user", "user"),
)
#: Experiments that were served; `weights` = JSON {variant: weight}, in the order they are configured.
experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("first_us", _big, nullable=False),
    sa.Column("weights", sa.Text, nullable=False),
)
