"""Every engine behind one interface, for the tests that all of them must pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.engines.milvus.collection import Loadable
from recserve_server_ext.index.engines.milvus.engine import MilvusEngine
from recserve_server_ext.index.engines.scan import ScanEngine
from recserve_server_ext.index.engines.scan_fit import Fit


class EngineMaker(Protocol):
    """Builds one kind of engine, wide enough to find nearly everything."""

    def __call__(self, vectors: Vectors, fields: Sequence[Mapping[str, Any]] | None = None) -> Engine:
        """Over these vectors [items, dim] of at least 1,000 items; only an engine elsewhere needs the fields."""
        ...


@contextmanager
def engine_maker(name: str, milvus_uri: str) -> Iterator[EngineMaker]:
    """What builds the engine of this name; collections are removed at the end."""
    made: list[MilvusEngine] = []

    def make(vectors: Vectors, fields: Sequence[Mapping[str, Any]] | None = None) -> Engine:
        if name == "exact":
            return ExactEngine(vectors)
        if name == "hnsw":
            return HnswEngine.build(vectors, m=16, ef_construction=200, ef=400, threads=1)
        if name == "scan":
            codes = vectors.shape[1] // 2
            fit = Fit.to(vectors[::7], vectors, rank=2 * codes)
            return ScanEngine.build(vectors, fit, lists=16, codes=codes, nprobe=16, rescored=640, threads=1)
        items = Loadable.of_items(vectors, [f"i{row}" for row in range(len(vectors))], fields, "test")
        settings = MilvusSettings(uri=milvus_uri, consistency="Strong")
        made.append(MilvusEngine.build(items, settings, m=16, ef_construction=200, ef=400))
        return made[-1]

    try:
        yield make
    finally:
        for engine in made:
            engine.discard()
