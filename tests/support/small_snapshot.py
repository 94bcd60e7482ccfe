"""A snapshot of random vectors with an exact engine: seconds are for real encoders, this takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.fields import ItemFields
from recserve_server_ext.index.manifest import EngineManifest, SnapshotManifest
from recserve_server_ext.index.snapshot import Content, Snapshot, write

DIM = 16


def small_snapshot(folder: Path, *, items: int = 200, hidden: tuple[int, ...] = ()) -> Snapshot:
    """Publish and load items ``i0``, ``i1`` ... with the fields title and year; `hidden` rows are unavailable."""
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(items, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    available = np.ones(items, np.bool_)
    available[list(hidden)] = False
    content = Content(
        vectors=vectors,
        ids=[f"i{row}" for row in range(items)],
        engine=HnswEngine.build(vectors, m=16, ef_construction=200, ef=200),
        encoder="test",
        revision=3,
        available=available,
        fields=[{"title": f"Title {row}", "year": 1900 + row} for row in range(items)],
    )
    return Snapshot.load(write(folder, content), encoder="test")


def view_of(vectors: Vectors, engine: Engine, available: NDArray[np.bool_] | None = None) -> View:
    """A view of items ``i0``, ``i1`` ... that are nowhere on disk, without fields and changes."""
    items = len(vectors)
    manifest = SnapshotManifest(
        id="none", created="", encoder="test", revision=3, source="", items=items, dim=vectors.shape[1],
        engine=EngineManifest(name=engine.name, parameters={}), field_weights={}, recall_target=None, measured_with="",
        versions={}, files={},
    )  # fmt: skip
    ids = [f"i{row}" for row in range(items)]
    snapshot = Snapshot(
        manifest=manifest,
        vectors=vectors,
        ids=ids,
        row_of={name: row for row, name in enumerate(ids)},
        available=np.ones(items, np.bool_) if available is None else available,
        engine=engine,
        exact=ExactEngine(vectors),
        fields=ItemFields(pa.table({})),
    )
    return View(snapshot)
