"""What is evaluated: the catalogue and the log of a home, or a pair of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recserve_benchmarks.errors import BenchmarkError
from recserve_benchmarks.evaluation.log.files import read_pair
from recserve_benchmarks.harness.run import Show
from recserve_export.training.store_log import read_log
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.item_vectors import PairCollector, encode_items
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.history.features import select
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.interactions.store import InteractionStore


@dataclass(frozen=True, eq=False)
class Dataset:
    """A log and the vectors of its items.

    Attributes:
        columns: Interactions with items; `subjects` are the ids of all items.
        vectors: [items, dim] unit text vectors; zeros for an item without a text.
        source: What it was read from, for the report.
    """

    columns: InteractionColumns
    vectors: Vectors
    source: dict[str, Any]

    def as_of(self, time_s: float) -> Dataset:
        """What was known at a time, in seconds since 1970; raises BenchmarkError where that is nothing."""
        kept = np.flatnonzero(self.columns.time_us < time_s * MICROSECONDS)
        if not len(kept):
            raise BenchmarkError("there are no interactions before that time")
        return replace(self, columns=select(self.columns, kept))


def of_home(workspace: Workspace, store: Path | str, show: Show) -> Dataset:
    """The published snapshot and the whole log of a home.

    Raises:
        BenchmarkError: No interaction names an item of the catalogue.
        SnapshotError: There is no snapshot, or it is damaged.
        InteractionError: The log cannot be read.
    """
    snapshot = Snapshot.load(current(workspace.snapshots), verify=False)
    show("read the log", 0, 1)
    with InteractionStore(store) as opened:
        log = read_log(opened)
    columns = among(log.columns, snapshot.ids)
    count, read = len(columns.time_us), len(log.columns.time_us)
    if not count:
        raise BenchmarkError(
            f"none of the {read:,} interactions with items names an item of the catalogue; "
            "import some with: recserve interactions import FILE"
        )
    source = {
        "snapshot": snapshot.manifest.id,
        "encoder": snapshot.manifest.encoder,
        "of_unknown_items": read - count,
        "last_number": log.number,
    }
    return Dataset(columns, snapshot.text.vectors, source)


def among(columns: InteractionColumns, items: Sequence[str]) -> InteractionColumns:
    """The interactions with these items, which become the `subjects`."""
    place_of = {item: place for place, item in enumerate(items)}
    place = np.array([place_of.get(name, -1) for name in columns.subjects], np.int64)
    kept = select(columns, np.flatnonzero(place[columns.subject] >= 0))
    is_item = np.ones(len(items), np.bool_)
    return replace(kept, subject=place[kept.subject], subjects=list(items), is_item=is_item)


def of_files(
    interactions: Path, items: Path | None, encoder: TextEncoder, show: Show, recipe: str | None = None
) -> Dataset:
    """The log and the catalogue of a pair of files.

    Args:
        interactions: File of interactions, or a folder with one and the file of items beside it.
        items: File of items; `None` looks beside the interactions.
        encoder: Makes the item vectors.
        show: Shows progress.
        recipe: See `read_pair`.

    Raises:
        BenchmarkError: A file cannot be read.
    """
    pair = read_pair(interactions, items, recipe)
    show("encode item texts", 0, len(pair.texts))
    vectors = encode_texts(pair.texts, encoder)
    source = {
        "files": pair.files,
        "text_fields": list(pair.fields),
        "times": pair.times,
        "encoder": encoder.fingerprint,
    }
    return Dataset(pair.columns, vectors, source)


def encode_texts(texts: Sequence[dict[str, str]], encoder: TextEncoder) -> Vectors:
    """Item vectors [items, dim] as the index build makes them with equal field weights; zeros without a text."""
    collector = PairCollector({})
    has_text = np.array([collector.add(of) for of in texts], np.bool_)
    vectors = np.zeros((len(texts), encoder.dim), np.float32)
    if has_text.any():
        found, cancelled = encode_items(collector, encoder.encode)
        found[cancelled] = 0.0
        vectors[has_text] = found
    return vectors
