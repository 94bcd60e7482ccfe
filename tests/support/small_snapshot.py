"""A snapshot of random vectors with an exact engine: seconds are for real encoders, this takes milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recserve_server_ext.hnsw_engine import HnswEngine
from recserve_server_ext.snapshot import Content, Snapshot, write

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
