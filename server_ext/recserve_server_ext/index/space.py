"""A space of a snapshot: item vectors, the engine that searches them, and which items have a vector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Mask, Rows, Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.networks.network import Network, NetworkManifest, read_network, write_network

#: The space of the encoder's vectors, which every snapshot has.
TEXT: Final = "text"
MILVUS: Final = "milvus"
VECTORS: Final = "vectors.npy"
INPUTS: Final = "inputs.npy"
TEXT_MAP: Final = "text_map.npy"
REPORT: Final = "report.json"
_ROWS: Final = "rows.npy"
_LEARNED: Final = "learned.npy"
_UPSERTED: Final = "upserted.npy"


def space_folder(snapshot: Path, name: str = TEXT) -> Path:
    """The folder of a space in that of its snapshot."""
    return snapshot / "spaces" / name


class EngineManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine of a space.

    Attributes:
        name: `hnsw`, `scan`, `exact` or `milvus`.
        parameters: What it was built with and searches with: `M`, `ef_construction` and `ef` of hnsw and milvus;
            `lists`, `codes`, `nprobe` and `rescored` of scan, and `added`: items coded since the codes were trained.
    """

    name: str
    parameters: dict[str, int] = {}


class SpaceManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A space in the manifest of its snapshot.

    Attributes:
        dim: Length of a vector.
        vectors: Number of items with a vector.
        version: Version of the trained space that its vectors come from; empty for the encoder's vectors.
        parameters: Numbers that its strategy needs, by name.
        network: What makes user vectors in this space; `None` where arithmetic does.
        recall_target: Recall@10 that the engine's parameters were chosen for.
        measured_with: Users that the recall was measured with; empty without a measurement.
    """

    dim: int
    vectors: int
    engine: EngineManifest
    version: str = ""
    parameters: dict[str, float] = {}
    network: NetworkManifest | None = None
    recall_target: float | None = None
    measured_with: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class SpaceContent:
    """A space of a new snapshot; for the fields without a description see `SpaceManifest`.

    Attributes:
        vectors: [vectors, dim] float32, at least one; of unit length in the text space.
        engine: Built over these vectors.
        rows: [vectors] row of the snapshot that each vector belongs to, ascending; `None` where every row has one.
        inputs: [vectors, dim] float32: the vectors that items have as behaviours; `None` where they are `vectors`.
        text_map: [text dim + 1, dim] float32: (an item's vector of the text space, 1) times this is its vector here,
            for items that came after the training; `None` without such a map. With `inputs` it has 2 dim columns: the
            vector, then the input.
        learned: [vectors] whether the vector was learned, where others come from `text_map`; `None` without such a map.
        upserted: [vectors] whether the vector came with its item, not with the version; `None` where none did.
        network: Makes user vectors in this space; `None` where arithmetic does.
        report: JSON document kept beside the engine: how its parameters were chosen.
    """

    vectors: Vectors
    engine: Engine
    rows: Rows | None = None
    inputs: Vectors | None = None
    text_map: Vectors | None = None
    learned: Mask | None = None
    upserted: Mask | None = None
    version: str = ""
    parameters: Mapping[str, float] = field(default_factory=dict)
    network: Network | None = None
    recall_target: float | None = None
    measured_with: str = ""
    report: bytes | None = None

    def manifest(self) -> SpaceManifest:
        """Its part of the snapshot's manifest."""
        return SpaceManifest(
            dim=self.vectors.shape[1],
            vectors=len(self.vectors),
            engine=EngineManifest(name=self.engine.name, parameters=self.engine.parameters),
            version=self.version,
            parameters=dict(self.parameters),
            network=None if self.network is None else self.network.manifest,
            recall_target=self.recall_target,
            measured_with=self.measured_with,
        )

    def check(self, name: str, items: int) -> None:
        """Raise SnapshotError unless it fits a snapshot of so many items."""
        vectors = self.vectors
        if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.size:
            raise SnapshotError(
                f"a space needs float32 vectors [items, dim], {name!r} has {vectors.dtype} {vectors.shape}"
            )
        if self.inputs is not None and (self.inputs.shape != vectors.shape or self.inputs.dtype != np.float32):
            raise SnapshotError(f"space {name!r} has {vectors.shape} vectors and {self.inputs.shape} inputs")
        _check_rows(name, self.rows, len(vectors), items)

    def write(self, folder: Path) -> None:
        """Write the vectors, the engine and what belongs to them into a new folder."""
        folder.mkdir(parents=True)
        arrays = (
            (VECTORS, self.vectors), (_ROWS, self.rows), (INPUTS, self.inputs), (TEXT_MAP, self.text_map),
            (_LEARNED, self.learned), (_UPSERTED, self.upserted),
        )  # fmt: skip
        for name, array in arrays:
            if array is not None:
                np.save(folder / name, array)
        if self.network is not None:
            write_network(folder, self.network)
        if self.report is not None:
            (folder / REPORT).write_bytes(self.report)
        self.engine.save(folder)


@dataclass(frozen=True, kw_only=True, eq=False)
class Space:
    """A loaded space; immutable.

    The vectors are mapped, so processes on one machine share them; a graph holds hnswlib's own copy.

    Attributes:
        vectors: [vectors, dim] float32, read-only; of unit length in the text space.
        engine: Searches the space; its rows are those of `vectors`.
        rows: See `SpaceContent`.
        inputs: See `SpaceContent`; read-only.
        text_map: See `SpaceContent`.
        learned: See `SpaceContent`.
        upserted: See `SpaceContent`.
        network: See `SpaceContent`.
    """

    name: str
    manifest: SpaceManifest
    items: int
    vectors: Vectors
    engine: Engine
    rows: Rows | None = None
    inputs: Vectors | None = None
    text_map: Vectors | None = None
    learned: Mask | None = None
    upserted: Mask | None = None
    network: Network | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        name: str,
        manifest: SpaceManifest,
        items: int,
        threads: int | None = None,
        milvus: MilvusSettings | None = None,
    ) -> Space:
        """Open a space of a snapshot.

        Args:
            threads: Threads of a search; by default the usable cores.
            milvus: Settings of Milvus; without them a space in Milvus can be loaded, but not searched.

        Raises:
            SnapshotError: A file is missing, damaged, or does not fit the manifest.
        """
        own = space_folder(folder, name)
        shape = manifest.vectors, manifest.dim
        vectors = map_array(own / VECTORS, shape)
        inputs = map_array(own / INPUTS, shape) if (own / INPUTS).is_file() else None
        rows, text_map = load_array(own / _ROWS), load_array(own / TEXT_MAP)
        _check_rows(own, rows, manifest.vectors, items)
        engine = _load_engine(manifest.engine, own, vectors, threads, milvus or MilvusSettings())
        return cls(
            name=name,
            manifest=manifest,
            items=items,
            vectors=vectors,
            engine=engine,
            rows=rows,
            inputs=inputs,
            text_map=text_map,
            learned=load_array(own / _LEARNED),
            upserted=load_array(own / _UPSERTED),
            network=read_network(own, manifest.network, REBUILD),
        )

    @cached_property
    def exact(self) -> ExactEngine:
        """The exact engine over the same vectors, for what `engine` cannot answer."""
        return ExactEngine(self.vectors)

    @cached_property
    def place_of(self) -> Rows:
        """[items] index of each row's vector; -1 for a row without one."""
        if self.rows is None:
            return np.arange(self.items)
        places = np.full(self.items, -1, np.int64)
        places[self.rows] = np.arange(len(self.rows))
        return places

    @cached_property
    def present(self) -> Mask:
        """[items] whether each row has a vector."""
        return np.asarray(self.place_of >= 0)


def load_array(path: Path) -> Any:
    """An array in a file, `None` without the file; raises SnapshotError where it cannot be read."""
    if not path.is_file():
        return None
    with reading(path, SnapshotError, REBUILD):
        return np.load(path)


def map_array(path: Path, shape: tuple[int, ...]) -> Vectors:
    """A float32 array in a file, mapped; raises SnapshotError where it is missing or of another shape or type."""
    with reading(path, SnapshotError, REBUILD):
        mapped = np.load(path, mmap_mode="r")
    if mapped.shape != shape or mapped.dtype != np.float32:
        raise SnapshotError(f"{path} holds {mapped.dtype} {mapped.shape}, manifest says float32 {shape}; {REBUILD}")
    vectors: Vectors = mapped.view(np.ndarray)
    return vectors


def _check_rows(name: str | Path, rows: Rows | None, vectors: int, items: int) -> None:
    """Check that the rows of a space, or all rows, fit its vectors and the items of its snapshot."""
    count = items if rows is None else len(rows)
    rises = rows is None or bool((np.diff(rows) > 0).all() and rows[0] >= 0 and rows[-1] < items)
    if count != vectors or not rises:
        raise SnapshotError(
            f"space {name} has {vectors} vectors for {count} rows of {items} items; one each is needed, in rising order"
        )


def _load_engine(
    engine: EngineManifest, folder: Path, vectors: Vectors, threads: int | None, milvus: MilvusSettings
) -> Engine:
    if engine.name == HnswEngine.name:
        return HnswEngine.load(folder, vectors, engine.parameters, threads=threads)
    if engine.name == "scan":
        # Imported here, since loading faiss takes a while.
        from recserve_server_ext.index.engines.scan import ScanEngine

        return ScanEngine.load(folder, vectors, engine.parameters, threads=threads)
    if engine.name == ExactEngine.name:
        return ExactEngine(vectors)
    if engine.name == MILVUS:
        from recserve_server_ext.index.engines.milvus.engine import MilvusEngine

        return MilvusEngine.load(folder, vectors, engine.parameters, milvus)
    raise SnapshotError(f"snapshot {folder} has an engine {engine.name!r} that this version lacks; {REBUILD}")
