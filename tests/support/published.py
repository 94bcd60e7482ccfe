"""What was learned of a log, published, taken over by a snapshot, and asked by name."""

from __future__ import annotations

from functools import partial

import numpy as np

from recserve_export.index.engine_choice import Settings
from recserve_export.index.spaces import Index, taken_over
from recserve_export.training.base import Learned, TrainingLog
from recserve_export.training.publish import publish
from recserve_server_ext.catalogue.live import LiveCatalogue
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Rows
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.snapshot import Content, Snapshot, write
from recserve_server_ext.index.trained import Origin
from recserve_server_ext.index.trained_versions import current_spaces, make_current
from recserve_server_ext.strategies.base import Profile, Query
from recserve_server_ext.strategies.registry import Registry
from support.data import data_over, spec_of
from support.edited import ENCODER, Edited, item_vector
from support.small_snapshot import text_space


def serving(edited: Edited, log: TrainingLog, learned: dict[str, Learned]) -> LiveCatalogue:
    """The catalogue over a snapshot that took over what was learned and published."""
    spaces = edited.snapshots.parent / "spaces"
    for name, of in learned.items():
        make_current(publish(spaces, name, log, of, Origin()))
    items = list(edited.store.items())
    vectors, ids = np.stack([item_vector(item.texts) for item in items]), [item.id for item in items]
    index = Index(ids, vectors, edited.store.head().identity, ENCODER)
    taken = taken_over(current_spaces(spaces), index, Settings(engine="exact"))
    content = Content(
        spaces={**text_space(vectors, ExactEngine(vectors)), **taken.spaces},
        matrices=taken.matrices,
        models=taken.models,
        ids=ids,
        encoder=ENCODER,
        revision=edited.store.revision,
        source=edited.store.head().identity,
        fields=[item.fields for item in items],
        field_weights=edited.store.head().field_weights,
    )
    write(edited.snapshots, content)
    return LiveCatalogue(edited.snapshots, partial(Snapshot.load, encoder=ENCODER), lambda: edited.store)


def query_of(view: View, names: list[str], strategy: str, n: int = 100) -> Query:
    """A query of a user with these items, newest first, with the default options of a strategy."""
    rows = view.row_of.rows(names)
    ones = np.ones(len(rows))
    profile = Profile(ones, rows, {}, {}, [], np.zeros(len(rows)), np.arange(len(rows)) * 1.0, ones, count=len(rows))
    return Query(profile, data_over(view), spec_of(n), Registry().choose(strategy, {}).options)


def ranked(view: View, names: list[str], strategy: str, n: int = 100) -> list[str]:
    """What a strategy proposes to a user with these items."""
    (rows,) = Registry().choose(strategy, {}).strategy.candidates([query_of(view, names, strategy, n)], [n])
    return view.ids(rows)


def rows_of(view: View, names: list[str]) -> Rows:
    """Rows of items; -1 for an unknown one."""
    return view.row_of.rows(names)
