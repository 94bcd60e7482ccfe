"""A snapshot of random vectors with an exact engine: seconds are for real encoders, this takes milliseconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.snapshot import Content, Snapshot, write
from recserve_server_ext.index.space import TEXT, Space, SpaceContent

DIM = 16


def text_space(vectors: Vectors, engine: Engine, **more: Any) -> dict[str, SpaceContent]:
    """The spaces of a snapshot that has only that of the encoder."""
    return {TEXT: SpaceContent(vectors=vectors, engine=engine, **more)}


def small_snapshot(folder: Path, *, items: int = 200, hidden: tuple[int, ...] = ()) -> Snapshot:
    """Publish and load items ``i0``, ``i1`` ... with the fields title and year; `hidden` rows are unavailable."""
    rng = np.random.default_rng(11)
    vectors = rng.normal(size=(items, DIM))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    available = np.ones(items, np.bool_)
    available[list(hidden)] = False
    content = Content(
        spaces=text_space(vectors, HnswEngine.build(vectors, m=16, ef_construction=200, ef=200)),
        ids=[f"i{row}" for row in range(items)],
        encoder="test",
        revision=3,
        available=available,
        fields=[{"title": f"Title {row}", "year": 1900 + row} for row in range(items)],
    )
    return Snapshot.load(write(folder, content), encoder="test")


def with_engine(snapshot: Snapshot, engine: Engine) -> Snapshot:
    """The snapshot, searched by another engine."""
    text = snapshot.text
    space = Space(name=TEXT, manifest=text.manifest, items=text.items, vectors=text.vectors, engine=engine)
    return dataclasses.replace(snapshot, spaces={TEXT: space})
