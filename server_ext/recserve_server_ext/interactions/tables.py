"""Tables of the interaction store."""

from __future__ import annotations

import sqlalchemy as sa

from recserve_server_ext.common.errors import InteractionError
from recserve_server_ext.interactions.interaction import MEASURES
from recserve_server_ext.storage.database import BIG_INTEGER, Schema, state_table

metadata = sa.MetaData()

_COMMENT = sa.text("item IS NOT NULL AND text IS NOT NULL")
#: Users; all other rows name a user by `number`, so that a pseudonym is stored here and nowhere else. `changes` grows
#: with every change of what the user did or saw. It starts at random: a user who comes back after an erasure does not
#: get a number that was seen before.
users = sa.Table(
    "interaction_users",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True, autoincrement=True),
    sa.Column("pseudonym", sa.Text, nullable=False, unique=True),
    sa.Column("changes", sa.Integer, nullable=False),
)
#: Interactions, numbered as they came; an import numbers those of one transaction by user. `time_us` is in microseconds
#: since 1970; `event_id` is unique for each user.
interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True, autoincrement=True),
    sa.Column("user", BIG_INTEGER, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("time_us", BIG_INTEGER, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("item", sa.Text),
    sa.Column("text", sa.Text),
    *(sa.Column(name, sa.Double) for name in MEASURES),
    sa.Column("recommendation_id", sa.Text),
    sa.Column("session_id", sa.Text),
    sa.Column("context", sa.JSON(none_as_null=True)),
    sa.UniqueConstraint("user", "event_id"),
    # Read backwards it gives the newest interactions of a user without sorting. It holds all that a history needs but
    # texts, which are too long for an index of PostgreSQL, so reading a history does not look at the rows.
    sa.Index("ix_interactions_user_time", "user", "time_us", "number", "type", "item", *MEASURES),
    # Of texts about items alone, so that nobody else's history costs more for them.
    sa.Index("ix_interactions_comments", "user", "time_us", "number", sqlite_where=_COMMENT),
)

#: Every item a user had to do with and the last time of each kind; it outlives the interactions.
seen = sa.Table(
    "seen_items",
    metadata,
    sa.Column("user", BIG_INTEGER, primary_key=True, autoincrement=False),
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("last_us", BIG_INTEGER, nullable=False),
    sqlite_with_rowid=False,
)
#: Tombstones of erased users; for `mark` see `recserve_server_ext.interactions.pseudonyms.tombstone_mark`.
erased = sa.Table(
    "erased_users",
    metadata,
    sa.Column("mark", sa.Text, primary_key=True),
    sa.Column("erased_us", BIG_INTEGER, nullable=False),
    sa.Column("until_us", BIG_INTEGER, nullable=False),
)
#: Erasures, without the user: `revision` is that of the store afterwards, `first` the least number of the interactions
#: that went. A model that was trained up to an interaction of this number or a later one, at an earlier revision, saw
#: some of them.
erasures = sa.Table(
    "erasures",
    metadata,
    sa.Column("revision", BIG_INTEGER, primary_key=True, autoincrement=False),
    sa.Column("first", BIG_INTEGER, nullable=False),
)
#: The state of the store. `ring` is the fingerprint of the keys that made the pseudonyms, NULL until a process
#: with keys has opened the store. `rotations` counts the keys after the first. `traces` says that a key rotation is
#: committed, but old pseudonyms may still be in the files.
state = state_table(
    "interaction_state",
    metadata,
    sa.Column("ring", sa.Text),
    sa.Column("rotations", sa.Integer, nullable=False, default=0),
    sa.Column("traces", sa.Boolean, nullable=False, default=False),
)
#: Logged answers of `recommend`, numbered as they were written. Three columns hold JSON: `variants`
#: {"experiment@version": "variant"} with sorted keys, `recommended` the item ids best first, `propensities` the
#: probability of each, NULL where all are 1.
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("number", BIG_INTEGER, primary_key=True, autoincrement=True),
    sa.Column("recommendation_id", sa.Text, nullable=False, unique=True),
    sa.Column("user", BIG_INTEGER),
    sa.Column("time_us", BIG_INTEGER, nullable=False),
    sa.Column("strategy", sa.Text, nullable=False),
    sa.Column("variants", sa.Text, nullable=False),
    sa.Column("forced", sa.Boolean, nullable=False),
    sa.Column("sampling", sa.Double, nullable=False),
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("recommended", sa.Text, nullable=False),
    sa.Column("propensities", sa.Text),
    sa.Column("revision", BIG_INTEGER, nullable=False),
    sa.Column("encoder", sa.Text, nullable=False),
    sa.Column("rules", sa.Text),
    sa.Index("ix_answers_user", "user"),
)
#: Experiments that were served; `weights` is JSON {variant: weight} in the configured order.
experiments = sa.Table(
    "experiments",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("first_us", BIG_INTEGER, nullable=False),
    sa.Column("weights", sa.Text, nullable=False),
)
SCHEMA = Schema(
    name="interactions",
    head="0001",
    tables=metadata,
    state=state,
    error=InteractionError,
    advice="make one with: recserve interactions import FILE",
    overwrites=True,
)
