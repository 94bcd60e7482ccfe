"""Homes whose strategies are measured: the user's own, or one of made-up items with a made-up log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.log.made_log import made_log
from recserve_benchmarks.harness.corpus import item_ids
from recserve_benchmarks.harness.run import Run
from recserve_benchmarks.retrieve.items import NEIGHBOURS, grown, some_of
from recserve_export.index.build import build_index
from recserve_export.index.engine_choice import Settings
from recserve_export.training.base import training_log
from recserve_export.training.publish import ALL, names_of, publish
from recserve_export.training.registry import train
from recserve_server_ext.common.arrays import Floats
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.history.features import select
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.trained import Origin
from recserve_server_ext.index.trained_versions import make_current
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.key_file import read_pseudonyms
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore

#: Interactions of a made-up log: so many, and so many more for each item.
_LEAST, _OF_ITEM = 50_000, 5
#: Interactions of each of its users in the mean.
_OF_USER: Final = 10
#: Short trainings on a part of the log: what a user costs does not depend on how well a network or a ranker was
#: trained. Items outside that part get their vectors from their texts.
_NETWORK: Final = {"epochs": 1, "held_out": 0.0, "batch": 1024}
_SHORT: Final[Mapping[str, Mapping[str, Any]]] = {
    "generate": _NETWORK,
    "ranker": {"cuts": 1, "lists": 300},
    "sequence": _NETWORK,
    "text_head": {"steps": 50},
}
#: Interactions of that part: the newest.
_PART: Final = 10_000
#: Users of each kind that engines are chosen with.
_MEASURED: Final = 100
#: Interactions that the counts of a server see: what `popular` is made from.
_COUNTED: Final = 100_000


@dataclass(frozen=True, eq=False)
class MeasuredHome:
    """A home to serve.

    Attributes:
        home: The home.
        ids: Its items.
        share: [items] share of each item in what users do.
        engines: Engine of each space, by name.
    """

    home: Workspace
    ids: list[str]
    share: Floats
    engines: dict[str, str]


def own_home(run: Run) -> MeasuredHome:
    """The home of the run as it is, with users like those of its log.

    Raises:
        ServerError: The snapshot or the log cannot be read.
        BenchmarkError: The log names no item of the catalogue.
    """
    snapshot = Snapshot.load(current(run.workspace.snapshots), encoder=run.manifest.runtime_fingerprint)
    counts = np.zeros(len(snapshot.ids))
    with InteractionStore(run.workspace.interactions) as store, store.item_counts() as found:
        for item, count in found:
            if (row := snapshot.row_of.get(item)) is not None:
                counts[row] = count
    if not counts.any():
        raise BenchmarkError("the log of the home names no item of its catalogue")
    return _measured(run.workspace, snapshot, counts)


def made_home(run: Run, items: int) -> MeasuredHome:
    """A home of so many items around those of the run, trained on a made-up log, unless that was done before.

    Raises:
        ServerError: The snapshot of the run's home cannot be read.
        ExportError: A training failed.
        BenchmarkError: The home has too few items.
    """
    home, encoder = Workspace(run.workspace.home / f"bench-strategies-{items}"), run.manifest.runtime_fingerprint
    interactions = _LEAST + _OF_ITEM * items
    columns = made_log(users=interactions // _OF_USER, items=items, interactions=interactions, seed=run.seed)
    counts = np.bincount(columns.subject, minlength=items).astype(np.float64)
    source = f"made-up log {run.seed}, {interactions}"
    try:
        snapshot = Snapshot.load(current(home.snapshots), encoder=encoder)
        if snapshot.manifest.source == source:
            return _measured(home, snapshot, counts)
    except SnapshotError:
        pass
    _make(run, home, columns, source)
    return _measured(home, Snapshot.load(current(home.snapshots), encoder=encoder), counts)


def _make(run: Run, home: Workspace, columns: InteractionColumns, source: str) -> None:
    items, encoder = len(columns.subjects), run.manifest.runtime_fingerprint
    real = Snapshot.load(current(run.workspace.snapshots), encoder=encoder).text.vectors
    if len(real) <= NEIGHBOURS:
        raise BenchmarkError(f"the home has {len(real)} items; more than {NEIGHBOURS} are needed to make up others")
    vectors = np.array(some_of(real, items, run.seed) if items <= len(real) else grown(real, items, run))
    home.home.mkdir(exist_ok=True)
    if not home.encoder.exists():
        home.encoder.symlink_to(run.workspace.encoder.resolve(), target_is_directory=True)
    columns.subjects[:] = item_ids(items)
    newest = np.sort(np.argsort(columns.time_us, kind="stable")[-_PART:])
    whole, part = training_log(columns), training_log(select(columns, newest))
    # `all` leaves it out, and its cost is measured, too.
    for name in run.each(f"train for {items:,} items", [*names_of(ALL), "generate"]):
        log = part if name in _SHORT else whole
        learned = train(name, log, vectors, _SHORT.get(name))
        make_current(publish(home.spaces, name, log, learned, Origin(source, encoder)))
    build_index(
        home.snapshots, vectors, columns.subjects, encoder=encoder, source=source, settings=Settings(users=_MEASURED),
        spaces=home.spaces, stage=run.stage,
    )  # fmt: skip
    home.interactions.unlink(missing_ok=True)
    with InteractionStore(home.interactions, create=True) as store:
        made = _newest(columns, read_pseudonyms(home.pseudonym_key))
        while batch := list(islice(made, store.limits.batch)):
            store.record(batch)


def _newest(columns: InteractionColumns, pseudonyms: Pseudonyms) -> Iterator[Interaction]:
    users = columns.user  # worked out anew each time it is asked for
    for place in np.argsort(columns.time_us)[-_COUNTED:].tolist():
        yield Interaction(
            user=pseudonyms.of(f"user-{users[place]}"),
            type=columns.types[columns.type[place]],
            item=columns.subjects[columns.subject[place]],
            timestamp=int(columns.time_us[place]) / MICROSECONDS,
        )


def _measured(home: Workspace, snapshot: Snapshot, counts: Floats) -> MeasuredHome:
    engines = {name: of.engine.name for name, of in snapshot.manifest.spaces.items()}
    return MeasuredHome(home, list(snapshot.ids), counts / counts.sum(), engines)
