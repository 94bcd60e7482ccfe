"""A snapshot: an immutable index in a folder; `CURRENT` names the published one."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from recserve_server_ext.common.arrays import Mask, Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import LOCK, exclusive, new_folder, sha256_of
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.fields import ItemFields, flags, read_table, whole, write_fields, write_table
from recserve_server_ext.index.item_ids import ItemIds, RowTable, write_row_table
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest, write_manifest
from recserve_server_ext.index.matrix import ItemMatrix, matrix_folder
from recserve_server_ext.index.model import Model, ModelManifest, model_folder
from recserve_server_ext.index.plane import Plane
from recserve_server_ext.index.pointers import NAME, PREVIOUS, named, publish, published
from recserve_server_ext.index.space import TEXT, VECTORS, Space, SpaceContent, map_array, space_folder

IDS = "ids.arrow"
FIELDS = "fields.arrow"
#: Names that `write` gives: the moment in microseconds, and random digits.
_STAMPED = re.compile(r"(\d{8}T\d{12})-[0-9a-f]{8}")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A loaded snapshot; immutable.

    Attributes:
        ids: Item id of each row.
        available: [items] whether the item may be recommended.
    """

    manifest: SnapshotManifest
    ids: Sequence[str]
    row_of: RowTable
    available: Mask
    fields: ItemFields
    spaces: Mapping[str, Space]
    matrices: Mapping[str, ItemMatrix] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)

    @property
    def text(self) -> Space:
        """The space of the encoder's vectors, where every row has one."""
        return self.spaces[TEXT]

    @cached_property
    def young(self) -> Mask:
        """[items] items of which no space that maps texts has learned; none where there is no such space."""
        learned = [(space, space.learned) for space in self.spaces.values() if space.learned is not None]
        young = np.full(len(self.ids), bool(learned))
        for space, is_learned in learned:
            rows = np.arange(len(is_learned)) if space.rows is None else space.rows
            young[rows[is_learned]] = False
        return young

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        encoder: str | None = None,
        threads: int | None = None,
        milvus: MilvusSettings | None = None,
        verify: bool = True,
        verify_vectors: bool = True,
    ) -> Snapshot:
        """Open a snapshot.

        Args:
            encoder: Runtime fingerprint of the encoder that must have made it; `None` for any.
            threads: Threads of a search; by default the usable cores.
            milvus: Settings of Milvus; without them a snapshot in Milvus can be loaded, but not searched.
            verify: Whether to compute the checksums of the files.
            verify_vectors: Whether also those of the vectors; see `read_manifest`.

        Raises:
            SnapshotError: It is missing, damaged, of another format, or made with another encoder.
        """
        manifest = read_manifest(folder, verify=verify, verify_vectors=verify_vectors)
        _check_encoder(folder, manifest.encoder, encoder)
        table = read_table(folder / IDS)
        ids = ItemIds(whole(table["id"]))
        return cls(
            manifest=manifest,
            ids=ids,
            row_of=RowTable.load(folder, ids),
            available=flags(table["available"]),
            fields=ItemFields.load(folder / FIELDS),
            spaces={
                name: Space.load(folder, name, of, manifest.items, threads, milvus)
                for name, of in manifest.spaces.items()
            },
            matrices={
                name: ItemMatrix.load(matrix_folder(folder, name), manifest.items, of.version)
                for name, of in manifest.matrices.items()
            },
            models={name: load_model(folder, name, of) for name, of in manifest.models.items()},
        )


@dataclass(frozen=True, eq=False)
class SnapshotVectors:
    """The text vectors of a snapshot and their rows, for a build that reuses them; see `Snapshot`."""

    manifest: SnapshotManifest
    vectors: Vectors
    row_of: dict[str, int]

    @classmethod
    def load(cls, folder: Path, *, encoder: str) -> SnapshotVectors:
        """Open the vectors of a snapshot, after verifying every file; errors as of `Snapshot.load`."""
        manifest = read_manifest(folder)
        _check_encoder(folder, manifest.encoder, encoder)
        ids = read_table(folder / IDS)["id"].to_pylist()
        vectors = map_array(space_folder(folder) / VECTORS, (manifest.items, manifest.text.dim))
        return cls(manifest, vectors, {item: row for row, item in enumerate(ids)})


def _check_encoder(folder: Path, found: str, wanted: str | None) -> None:
    if wanted not in (None, found):
        raise SnapshotError(f"snapshot {folder} was made with encoder {found}, not with {wanted}; {REBUILD}")


def load_model(folder: Path, name: str, manifest: ModelManifest) -> Model:
    """A model of the snapshot in a folder; raises SnapshotError where it is damaged."""
    own = model_folder(folder, name)
    ids: list[str] = read_table(own / IDS)["id"].to_pylist()
    if len(ids) != manifest.ids:
        raise SnapshotError(f"the model {name!r} names {len(ids)} items, the manifest says {manifest.ids}; {REBUILD}")
    return Model.load(own, ids, manifest.version)


@dataclass(frozen=True, kw_only=True, eq=False)
class Content:
    """The content of a new snapshot; for the fields without a description see `SnapshotManifest`.

    Attributes:
        spaces: Its spaces by name, with `text`, in which every row has a vector.
        matrices: Its item-to-item matrices by name, over all rows.
        models: Its other models by name.
        ids: Item id of each row, distinct.
        available: [items] whether the item may be recommended; `None` when all may.
        fields: Fields of each item, in the order of the rows; `None` for no fields.
    """

    spaces: Mapping[str, SpaceContent]
    ids: Sequence[str]
    encoder: str
    revision: int
    matrices: Mapping[str, ItemMatrix] = field(default_factory=dict)
    models: Mapping[str, Model] = field(default_factory=dict)
    source: str = ""
    available: Mask | None = None
    fields: Iterable[Mapping[str, Any]] | None = None
    field_weights: Mapping[str, float] = field(default_factory=dict)


def write(snapshots: Path, content: Content, *, over: str = "") -> Path:
    """Publish a snapshot: written aside, fsynced, renamed, then named in `CURRENT`; its folder.

    The snapshot before is kept, and the last one of the encoder before. After a failure the snapshot before stays
    published.

    Args:
        over: Name of the snapshot that must still be published; empty for any.

    Raises:
        SnapshotError: The content does not fit together, or another snapshot was published meanwhile.
    """
    _check(content)
    snapshots.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC)
    with exclusive(snapshots / LOCK):
        folder = snapshots / _new_name(snapshots, now)
        previous = published(snapshots)
        if over not in ("", previous):
            raise SnapshotError(f"snapshot {previous} was published meanwhile over {over}; begin anew")
        with new_folder(folder) as aside:
            _write_files(aside, content)
            files = _digests(aside, {})
            write_manifest(aside, _manifest(content, folder.name, now.isoformat(timespec="seconds"), files))
        publish(snapshots, folder.name, content.encoder)
        _remove_others(snapshots, keep={folder.name, previous, named(snapshots, PREVIOUS)})
    return folder


def write_over(
    snapshots: Path,
    base: str,
    spaces: Mapping[str, SpaceContent],
    matrices: Mapping[str, ItemMatrix],
    models: Mapping[str, Model],
) -> Path:
    """Publish the published snapshot with other trained spaces, matrices and models; its folder.

    All other files are those of the snapshot before, as hard links.

    Args:
        snapshots: Folder of the snapshots.
        base: Name of the snapshot, which must still be published.
        spaces: Spaces that are new or take the place of one, by name; not `text`.
        matrices: Matrices that are new or take the place of one, by name.
        models: Models that are new or take the place of one, by name.

    Raises:
        SnapshotError: The content does not fit, the snapshot is damaged, or another was published meanwhile.
    """
    now = datetime.now(UTC)
    with exclusive(snapshots / LOCK):
        if (found := published(snapshots)) != base:
            raise SnapshotError(f"snapshot {found} was published meanwhile over {base}; begin anew")
        manifest = read_manifest(snapshots / base)
        _check_trained(manifest.items, spaces, matrices, models)
        replaced = [space_folder(Path(), name) for name in spaces]
        replaced += [matrix_folder(Path(), name) for name in matrices]
        replaced += [model_folder(Path(), name) for name in models]
        shared = {
            file: digest
            for file, digest in manifest.files.items()
            if not any(Path(file).is_relative_to(folder) for folder in replaced)
        }
        folder = snapshots / _new_name(snapshots, now)
        with new_folder(folder) as aside:
            for file in shared:
                (aside / file).parent.mkdir(parents=True, exist_ok=True)
                os.link(snapshots / base / file, aside / file)
            _write_spaces(aside, spaces, matrices, models)
            changed = msgspec.structs.replace(
                manifest,
                id=folder.name,
                created=now.isoformat(timespec="seconds"),
                spaces={**manifest.spaces, **{name: of.manifest() for name, of in spaces.items()}},
                matrices={**manifest.matrices, **{name: of.manifest() for name, of in matrices.items()}},
                models={**manifest.models, **{name: of.manifest() for name, of in models.items()}},
                files=_digests(aside, shared),
            )
            write_manifest(aside, changed)
        publish(snapshots, folder.name, manifest.encoder)
        _remove_others(snapshots, keep={folder.name, base, named(snapshots, PREVIOUS)})
    return folder


def _digests(folder: Path, known: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of every file of a folder, by path; some are known."""
    found = ((file.relative_to(folder).as_posix(), file) for file in sorted(folder.rglob("*")) if file.is_file())
    return {name: known.get(name) or sha256_of(file) for name, file in found}


def _new_name(snapshots: Path, now: datetime) -> str:
    """A name that sorts behind all others, even if the clock was set back: so the last is the newest."""
    stamp = f"{now:%Y%m%dT%H%M%S%f}"
    last = max((found[1] for name in snapshots.iterdir() if (found := _STAMPED.fullmatch(name.name))), default="")
    if stamp <= last:
        stamp = f"{last[:9]}{int(last[9:]) + 1:012d}"
    return f"{stamp}-{uuid.uuid4().hex[:8]}"


def _write_files(folder: Path, content: Content) -> None:
    items = len(content.ids)
    available = np.ones(items, np.bool_) if content.available is None else content.available
    table = pa.table({"id": pa.array(content.ids, pa.large_string()), "available": pa.array(available)})
    write_table(folder / IDS, table)
    write_row_table(folder, content.ids)
    fields = [{}] * items if content.fields is None else content.fields
    if (with_fields := write_fields(folder / FIELDS, fields)) != items:
        raise SnapshotError(f"a snapshot of {items} vectors needs the fields of as many items, got {with_fields}")
    Plane.fit(content.spaces[TEXT].vectors).write(folder)
    _write_spaces(folder, content.spaces, content.matrices, content.models)


def _write_spaces(
    folder: Path, spaces: Mapping[str, SpaceContent], matrices: Mapping[str, ItemMatrix], models: Mapping[str, Model]
) -> None:
    for name, space in spaces.items():
        space.write(space_folder(folder, name))
    for name, matrix in matrices.items():
        matrix.write(matrix_folder(folder, name))
    for name, model in models.items():
        own = model_folder(folder, name)
        model.write(own)
        write_table(own / IDS, pa.table({"id": pa.array(model.ids, pa.large_string())}))


def _manifest(content: Content, name: str, created: str, files: dict[str, str]) -> SnapshotManifest:
    return SnapshotManifest(
        id=name,
        created=created,
        encoder=content.encoder,
        revision=content.revision,
        source=content.source,
        items=len(content.ids),
        spaces={space: of.manifest() for space, of in content.spaces.items()},
        matrices={matrix: of.manifest() for matrix, of in content.matrices.items()},
        models={model: of.manifest() for model, of in content.models.items()},
        field_weights=dict(content.field_weights),
        versions={package: version(package) for package in ("recserve", "faiss-cpu", "hnswlib", "numpy", "pyarrow")},
        files=files,
    )


def _check(content: Content) -> None:
    items = len(content.ids)
    if not items or len(set(content.ids)) != items:
        raise SnapshotError(f"a snapshot needs distinct ids, got {items} of which {len(set(content.ids))} distinct")
    if (text := content.spaces.get(TEXT)) is None or text.rows is not None:
        raise SnapshotError("a snapshot needs the space 'text', with a vector for every item")
    _check_trained(items, content.spaces, content.matrices, content.models)
    if content.available is not None and content.available.shape != (items,):
        raise SnapshotError(f"`available` must be [{items}], got {list(content.available.shape)}")


def _check_trained(
    items: int, spaces: Mapping[str, SpaceContent], matrices: Mapping[str, ItemMatrix], models: Iterable[str]
) -> None:
    for name in (*spaces, *matrices, *models):
        if not NAME.fullmatch(name):
            raise SnapshotError(f"a space cannot be called {name!r}: it names a folder")
    for name, space in spaces.items():
        space.check(name, items)
    for name, matrix in matrices.items():
        matrix.check(name, items)


def _remove_others(snapshots: Path, keep: set[str]) -> None:
    """Remove the other folders: older snapshots, and what killed writers left."""
    for folder in snapshots.iterdir():
        if folder.is_dir() and folder.name not in keep:
            shutil.rmtree(folder, ignore_errors=True)


def first_id(folder: Path) -> str:
    """The first item id of a snapshot, without loading the rest; raises SnapshotError."""
    return str(read_table(folder / IDS).column("id")[0].as_py())
