"""A snapshot: an immutable index in a folder, published by naming it in `CURRENT`."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import exclusive, new_folder, sha256_of, write_file
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.engine import BuiltEngine, Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.fields import ItemFields, read_table, write_fields, write_table
from recserve_server_ext.index.manifest import EngineManifest, SnapshotManifest, read_manifest, write_manifest

CURRENT = "CURRENT"
#: Names what was published before the encoder changed last: with that encoder, the pair to go back to.
PREVIOUS = "PREVIOUS"
MILVUS = "milvus"
VECTORS = "vectors.npy"
IDS = "ids.arrow"
FIELDS = "fields.arrow"
REPORT = "report.json"
#: Held while snapshots are published or removed.
LOCK = ".lock"
#: A folder beside `CURRENT`, never a path that leads elsewhere.
_NAME = re.compile(r"[\w-]+")
#: How `write` names folders: the moment, to the microsecond, and something random.
_STAMPED = re.compile(r"(\d{8}T\d{12})-[0-9a-f]{8}")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A loaded snapshot; nothing in it changes.

    The vectors are mapped, so processes on one machine share them; a graph holds hnswlib's own second copy.

    Attributes:
        manifest: What it holds and was made from.
        vectors: [items, dim] unit float32, read-only.
        ids: Item id of each row.
        row_of: Row of each item id.
        available: [items] whether the item may be recommended.
        engine: What searches it.
        exact: The exact engine over the same vectors, for what `engine` cannot answer.
        fields: The items' fields.
    """

    manifest: SnapshotManifest
    vectors: NDArray[np.float32]
    ids: list[str]
    row_of: dict[str, int]
    available: NDArray[np.bool_]
    engine: Engine
    exact: Engine
    fields: ItemFields

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        encoder: str | None = None,
        threads: int | None = None,
        verify: bool = True,
        milvus: MilvusSettings | None = None,
    ) -> Snapshot:
        """Open a snapshot.

        Args:
            folder: One that `write` made; see `current`.
            encoder: Runtime fingerprint that it must have been made with; none = any.
            threads: Of a search; default the usable cores.
            verify: Whether to compute the checksums of the files.
            milvus: Where Milvus is, for a snapshot that is searched there; none = it can be loaded, but not searched.

        Raises:
            SnapshotError: Missing, damaged, of another format, or made with another encoder.
        """
        manifest = _manifest_of(folder, encoder, verify)
        vectors = _map_vectors(folder / VECTORS, (manifest.items, manifest.dim))
        table = read_table(folder / IDS)
        ids: list[str] = table["id"].to_pylist()
        return cls(
            manifest=manifest,
            vectors=vectors,
            ids=ids,
            row_of={item: row for row, item in enumerate(ids)},
            available=table["available"].to_numpy().astype(np.bool_),
            engine=_load_engine(manifest.engine, folder, vectors, threads, milvus or MilvusSettings()),
            exact=ExactEngine(vectors),
            fields=ItemFields.load(folder / FIELDS),
        )


@dataclass(frozen=True, eq=False)
class SnapshotVectors:
    """The vectors and ids of a snapshot, for a build that takes them over: no engine, no fields are loaded.

    Attributes are those of `Snapshot`.
    """

    manifest: SnapshotManifest
    vectors: NDArray[np.float32]
    row_of: dict[str, int]

    @classmethod
    def load(cls, folder: Path, *, encoder: str) -> SnapshotVectors:
        """Open them; every file of the snapshot is verified.

        Raises:
            SnapshotError: Missing, damaged, of another format, or made with another encoder.
        """
        manifest = _manifest_of(folder, encoder, True)
        ids = read_table(folder / IDS)["id"].to_pylist()
        vectors = _map_vectors(folder / VECTORS, (manifest.items, manifest.dim))
        return cls(manifest, vectors, {item: row for row, item in enumerate(ids)})


def _manifest_of(folder: Path, encoder: str | None, verify: bool) -> SnapshotManifest:
    """The manifest of a snapshot that must be of an encoder; none = of any."""
    manifest = read_manifest(folder, verify=verify)
    if encoder is not None and manifest.encoder != encoder:
        raise SnapshotError(
            f"snapshot {folder} was made with encoder {manifest.encoder}, not with {encoder}; {REBUILD}"
        )
    return manifest


def current(snapshots: Path) -> Path:
    """The folder that `CURRENT` names.

    Args:
        snapshots: Folder of the published snapshots.

    Raises:
        SnapshotError: Nothing was published, or what was is gone.
    """
    try:
        name = (snapshots / CURRENT).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise SnapshotError(f"no snapshot in {snapshots}; build one with: recserve index build") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{snapshots / CURRENT} cannot be read: {error}; {REBUILD}") from error
    if not _NAME.fullmatch(name) or not (snapshots / name).is_dir():
        raise SnapshotError(f"{snapshots / CURRENT} names {name!r}, which is not there; {REBUILD}")
    return snapshots / name


def published_encoder(snapshots: Path) -> str:
    """Runtime fingerprint of the encoder of the published snapshot; empty = none is published, or it is damaged."""
    try:
        return read_manifest(current(snapshots), verify=False).encoder
    except SnapshotError:
        return ""


def publish(snapshots: Path, name: str, encoder: str) -> None:
    """Name a snapshot in `CURRENT`, and with it its encoder: callers get both at once. The caller holds `LOCK`.

    Args:
        snapshots: The folder.
        name: Of a snapshot in it.
        encoder: Runtime fingerprint of its encoder.
    """
    before = published_encoder(snapshots)
    if before not in ("", encoder):
        write_file(snapshots / PREVIOUS, f"{_named(snapshots, CURRENT)}\n".encode())
    write_file(snapshots / CURRENT, f"{name}\n".encode())


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """What a snapshot is made of; rows are the same in all of it.

    Attributes:
        vectors: [items, dim] unit float32, at least one item.
        ids: Item id of each row, distinct.
        engine: Built over these vectors.
        encoder: Runtime fingerprint of the encoder that made them.
        revision: Of the catalogue.
        source: Identity of the catalogue store.
        available: [items] whether the item may be recommended; none = all.
        fields: Fields of each item, in the order of the rows; none = no fields.
        field_weights: Weights of the text fields.
        recall_target: Recall@10 that the engine's parameters were chosen for.
        measured_with: Users that this was measured with; empty = not told.
        report: JSON document kept beside the index: how the parameters were chosen.
    """

    vectors: NDArray[np.float32]
    ids: Sequence[str]
    engine: BuiltEngine
    encoder: str
    revision: int
    source: str = ""
    available: NDArray[np.bool_] | None = None
    fields: Iterable[Mapping[str, Any]] | None = None
    field_weights: Mapping[str, float] = field(default_factory=dict)
    recall_target: float | None = None
    measured_with: str = ""
    report: bytes | None = None


def write(snapshots: Path, content: Content, *, over: str = "") -> Path:
    """Publish a snapshot: written aside, fsynced, renamed, then named in `CURRENT`.

    The one before is kept, and the last one of the encoder before. When it fails or the process dies, what was
    published before stays published.

    Args:
        snapshots: The folder.
        content: Of the snapshot.
        over: Name of the snapshot that must still be the published one; empty = whichever is.

    Returns:
        Its folder.

    Raises:
        SnapshotError: The content does not fit together, or another snapshot was published meanwhile.
    """
    _check(content)
    snapshots.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    with exclusive(snapshots / LOCK):
        folder = snapshots / _new_name(snapshots, now)
        previous = _published(snapshots)
        if over not in ("", previous):
            raise SnapshotError(f"snapshot {previous} was published meanwhile over {over}; begin anew")
        with new_folder(folder) as aside:
            _write_files(aside, content)
            files = {file.name: sha256_of(file) for file in sorted(aside.iterdir())}
            write_manifest(aside, _manifest(content, folder.name, now.isoformat(timespec="seconds"), files))
        publish(snapshots, folder.name, content.encoder)
        _remove_others(snapshots, keep={folder.name, previous, _named(snapshots, PREVIOUS)})
    return folder


def _new_name(snapshots: Path, now: datetime) -> str:
    """A name that sorts behind those that are there, even where the clock was set back: so the last is the newest."""
    stamp = f"{now:%Y%m%dT%H%M%S%f}"
    last = max((found[1] for name in snapshots.iterdir() if (found := _STAMPED.fullmatch(name.name))), default="")
    if stamp <= last:
        stamp = f"{last[:9]}{int(last[9:]) + 1:012d}"
    return f"{stamp}-{uuid.uuid4().hex[:8]}"


def _write_files(folder: Path, content: Content) -> None:
    items = len(content.ids)
    np.save(folder / VECTORS, content.vectors)
    available = np.ones(items, np.bool_) if content.available is None else content.available
    ids = pa.array(content.ids, pa.large_string())
    write_table(folder / IDS, pa.table({"id": ids, "available": pa.array(available)}))
    with_fields = write_fields(folder / FIELDS, [{}] * items if content.fields is None else content.fields)
    if with_fields != items:
        raise SnapshotError(f"a snapshot of {items} vectors needs the fields of as many items, got {with_fields}")
    if content.report is not None:
        (folder / REPORT).write_bytes(content.report)
    content.engine.save(folder)


def _manifest(content: Content, name: str, created: str, files: dict[str, str]) -> SnapshotManifest:
    return SnapshotManifest(
        id=name,
        created=created,
        encoder=content.encoder,
        revision=content.revision,
        source=content.source,
        items=len(content.ids),
        dim=content.vectors.shape[1],
        engine=EngineManifest(name=content.engine.name, parameters=content.engine.parameters),
        field_weights=dict(content.field_weights),
        recall_target=content.recall_target,
        measured_with=content.measured_with,
        versions={package: version(package) for package in ("recserve", "faiss-cpu", "hnswlib", "numpy", "pyarrow")},
        files=files,
    )


def _check(content: Content) -> None:
    vectors = content.vectors
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.size:
        raise SnapshotError(f"a snapshot needs float32 vectors [items, dim], got {vectors.dtype} {vectors.shape}")
    if len(content.ids) != len(vectors) or len(set(content.ids)) != len(vectors):
        raise SnapshotError(
            f"{len(vectors)} vectors need as many distinct ids, "
            f"got {len(content.ids)} ids of which {len(set(content.ids))} distinct"
        )
    if content.available is not None and content.available.shape != (len(vectors),):
        raise SnapshotError(f"`available` must be [{len(vectors)}], got {list(content.available.shape)}")


def _map_vectors(path: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    try:
        mapped = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{path} cannot be read: {error}; {REBUILD}") from error
    if mapped.shape != shape or mapped.dtype != np.float32:
        raise SnapshotError(f"{path} holds {mapped.dtype} {mapped.shape}, manifest says float32 {shape}; {REBUILD}")
    vectors: NDArray[np.float32] = mapped.view(np.ndarray)
    return vectors


def _load_engine(
    engine: EngineManifest, folder: Path, vectors: NDArray[np.float32], threads: int | None, milvus: MilvusSettings
) -> Engine:
    if engine.name == HnswEngine.name:
        return HnswEngine.load(folder, vectors, engine.parameters, threads=threads)
    if engine.name == "scan":
        # Here, since loading faiss takes a while and only this engine needs it.
        from recserve_server_ext.index.engines.scan import ScanEngine

        return ScanEngine.load(folder, vectors, engine.parameters, threads=threads)
    if engine.name == ExactEngine.name:
        return ExactEngine.load(folder, vectors)
    if engine.name == MILVUS:
        from recserve_server_ext.index.engines.milvus.engine import MilvusEngine

        return MilvusEngine.load(folder, vectors, engine.parameters, milvus)
    raise SnapshotError(f"snapshot {folder} has an engine {engine.name!r} that this version lacks; {REBUILD}")


def _published(snapshots: Path) -> str:
    try:
        return current(snapshots).name
    except SnapshotError:
        return ""


def _named(snapshots: Path, pointer: str) -> str:
    """What a pointer names, there or not; empty = there is no such pointer."""
    try:
        return (snapshots / pointer).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _remove_others(snapshots: Path, keep: set[str]) -> None:
    """Remove the other folders: older snapshots, and what a writer that was killed left aside."""
    for folder in snapshots.iterdir():
        if folder.is_dir() and folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def first_id(folder: Path) -> str:
    """An item id of a snapshot, without loading the rest.

    Raises:
        SnapshotError: The file of ids cannot be read.
    """
    return str(read_table(folder / IDS).column("id")[0].as_py())
