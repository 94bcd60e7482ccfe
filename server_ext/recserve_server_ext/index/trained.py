"""Trained spaces, matrices and models on disk, by item id; new snapshots take over the current version.

`HOME/spaces/NAME/VERSION` holds `manifest.json`, `ids.arrow`, and `vectors.npy` with perhaps `inputs.npy` and
`text_map.npy` and `network.onnx`, an item-to-item matrix (`recserve_server_ext.index.matrix`), or a model
(`recserve_server_ext.index.model`).
`HOME/spaces/NAME/CURRENT` names the current version; see `recserve_server_ext.index.trained_versions`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError, SpaceError
from recserve_server_ext.common.files import LOCK, exclusive, new_folder, read_json, sha256_of, verify_files
from recserve_server_ext.index.fields import read_table, write_table
from recserve_server_ext.index.manifest import MANIFEST, check_own, checksum_of
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.index.model import Model
from recserve_server_ext.index.snapshot import IDS
from recserve_server_ext.index.space import INPUTS, TEXT, TEXT_MAP, VECTORS, load_array, map_array
from recserve_server_ext.networks.network import Network, NetworkManifest, read_network, write_network

_TRAIN_AGAIN: Final = "train the space again"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FORMAT: Final = 1
#: Name of a version: when it was made.
_VERSION: Final = "%Y%m%dT%H%M%S%f"


class TrainedManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of a version of a trained space.

    Attributes:
        version: Name of its folder.
        created: When it was made, UTC, ISO 8601.
        dim: Length of a vector; 0 for a matrix or a model.
        items: Number of items.
        source: Identity of the catalogue store whose items it is of; empty for any.
        encoder: Runtime fingerprint of the encoder whose text vectors it maps or reads; empty where it needs none.
        parameters: Numbers that the strategy needs, by name.
        network: See `recserve_server_ext.index.space.SpaceManifest`.
        made_from: What it was trained from, and how.
        files: SHA-256 of every other file of the folder.
        format: Version of this layout.
        checksum: SHA-256 of this manifest's JSON with an empty checksum.
    """

    version: str
    created: str
    dim: int
    items: int
    source: str = ""
    encoder: str = ""
    parameters: dict[str, float] = {}
    network: NetworkManifest | None = None
    made_from: dict[str, Any] = {}
    files: dict[str, str]
    format: int = _FORMAT
    checksum: str = ""

    def check_fits(self, name: str, source: str, encoder: str) -> None:
        """Raise SpaceError unless an index of this catalogue store and encoder can take it over."""
        for what, own, other in (("catalogue", self.source, source), ("encoder", self.encoder, encoder)):
            if own and other and own != other:
                raise SpaceError(
                    f"version {self.version} of the space {name!r} is of {what} {own}, the index of {other}; "
                    f"{_TRAIN_AGAIN}: recserve train {name}"
                )


@dataclass(frozen=True, eq=False)
class TrainedSpace:
    """A version of a trained space.

    Attributes:
        ids: Item id of each vector, distinct.
        vectors: [items, dim] float32.
        inputs: See `recserve_server_ext.index.space.SpaceContent`.
        text_map: See `recserve_server_ext.index.space.SpaceContent`.
        network: See `recserve_server_ext.index.space.SpaceContent`.
    """

    manifest: TrainedManifest
    ids: list[str]
    vectors: Vectors
    inputs: Vectors | None
    text_map: Vectors | None
    network: Network | None

    @classmethod
    def load(cls, folder: Path) -> TrainedSpace:
        """Open a version, verifying every file; raises SpaceError where it is missing or damaged."""
        manifest = read_trained(folder)
        shape = manifest.items, manifest.dim
        vectors = map_array(folder / VECTORS, shape)
        inputs = map_array(folder / INPUTS, shape) if (folder / INPUTS).is_file() else None
        network = read_network(folder, manifest.network, _TRAIN_AGAIN)
        return cls(manifest, _ids(folder), vectors, inputs, load_array(folder / TEXT_MAP), network)


class Origin(NamedTuple):
    """Where a version comes from.

    Attributes:
        source: See `TrainedManifest`.
        encoder: See `TrainedManifest`; for a version that maps texts.
        made_from: What it was trained from, and how.
    """

    source: str = ""
    encoder: str = ""
    made_from: Mapping[str, Any] = MappingProxyType({})


_ANYWHERE: Final = Origin()


class TrainedMatrix(NamedTuple):
    """A version of a trained item-to-item matrix.

    Attributes:
        ids: Item id of each row, distinct.
    """

    manifest: TrainedManifest
    ids: list[str]
    matrix: ItemMatrix

    @classmethod
    def load(cls, folder: Path) -> TrainedMatrix:
        """Open a version, verifying every file; raises SpaceError where it is missing or damaged."""
        manifest = read_trained(folder)
        return cls(manifest, _ids(folder), ItemMatrix.load(folder, manifest.items, manifest.version, _TRAIN_AGAIN))


def load_trained_model(folder: Path) -> Model:
    """A version of a trained model, verifying every file; raises SnapshotError where it is missing or damaged."""
    manifest = read_trained(folder)
    return Model.load(folder, _ids(folder), manifest.version, _TRAIN_AGAIN)


def read_trained(folder: Path) -> TrainedManifest:
    """The manifest of a version, whose files are verified; for the arguments see `trained_manifest`.

    Raises:
        SpaceError: A file is missing or damaged, or the layout is another one.
    """
    manifest = trained_manifest(folder)
    verify_files(folder, manifest.files, SpaceError, _TRAIN_AGAIN)
    return manifest


def trained_manifest(folder: Path) -> TrainedManifest:
    """The manifest of a version, without a look at the other files.

    Raises:
        SpaceError: It is missing or damaged, or of another layout.
    """
    path = folder / MANIFEST
    manifest = read_json(path, TrainedManifest, _FORMAT, SpaceError, _TRAIN_AGAIN)
    check_own(path, manifest, SpaceError, _TRAIN_AGAIN)
    return manifest


def _ids(folder: Path) -> list[str]:
    ids: list[str] = read_table(folder / IDS)["id"].to_pylist()
    return ids


def publish_space(
    spaces: Path,
    name: str,
    ids: Sequence[str],
    vectors: Vectors,
    *,
    inputs: Vectors | None = None,
    text_map: Vectors | None = None,
    parameters: Mapping[str, float] | None = None,
    network: Network | None = None,
    origin: Origin = _ANYWHERE,
) -> Path:
    """Write a version of a trained space, not the current one yet; its folder.

    Args:
        ids: Item id of each vector, distinct.
        vectors: [items, dim] finite float32, at least one.
        inputs: See `recserve_server_ext.index.space.SpaceContent`.
        text_map: See `recserve_server_ext.index.space.SpaceContent`.
        parameters: Numbers that the strategy needs, by name.
        network: See `recserve_server_ext.index.space.SpaceContent`.
        origin: Where it comes from.

    Raises:
        SnapshotError: The name or the content is wrong.
    """
    _check(name, ids, vectors)
    if inputs is not None and (inputs.shape != vectors.shape or not np.isfinite(inputs).all()):
        raise SnapshotError(f"space {name!r} needs finite inputs {vectors.shape}, got {inputs.shape}")

    def write(folder: Path) -> None:
        for file, array in ((VECTORS, vectors), (INPUTS, inputs), (TEXT_MAP, text_map)):
            if array is not None:
                np.save(folder / file, array)
        if network is not None:
            write_network(folder, network)

    made = TrainedManifest(
        version="", created="", dim=vectors.shape[1], items=len(vectors), parameters=dict(parameters or {}),
        source=origin.source, encoder="" if text_map is None else origin.encoder, made_from=dict(origin.made_from),
        network=None if network is None else network.manifest, files={},
    )  # fmt: skip
    return _publish(spaces, name, ids, made, write)


def publish_matrix(
    spaces: Path, name: str, ids: Sequence[str], matrix: ItemMatrix, *, origin: Origin = _ANYWHERE
) -> Path:
    """Write a version of a trained item-to-item matrix, not the current one yet; its folder.

    Args:
        ids: Item id of each row, distinct.
        matrix: Over these items.
        origin: Where it comes from.

    Raises:
        SnapshotError: The name or the content is wrong.
    """
    _check_ids(name, ids, matrix.items)
    matrix.check(name, len(ids))
    made = TrainedManifest(
        version="", created="", dim=0, items=len(ids), source=origin.source, made_from=dict(origin.made_from), files={}
    )
    return _publish(spaces, name, ids, made, matrix.write)


def publish_model(
    spaces: Path, name: str, model: Model, *, origin: Origin = _ANYWHERE, reads_text: bool = False
) -> Path:
    """Write a version of a trained model, not the current one yet; its folder.

    Args:
        model: The model.
        origin: Where it comes from.
        reads_text: Whether it is of use with the encoder of its origin only.

    Raises:
        SnapshotError: The name is wrong, or an item is named twice.
    """
    _check_ids(name, model.ids, len(model.ids))
    items = len(model.ids)
    made = TrainedManifest(
        version="", created="", dim=0, items=items, source=origin.source, encoder=origin.encoder if reads_text else "",
        made_from=dict(origin.made_from), files={},
    )  # fmt: skip
    return _publish(spaces, name, model.ids, made, model.write)


def _publish(spaces: Path, name: str, ids: Sequence[str], made: TrainedManifest, write: Callable[[Path], None]) -> Path:
    own, now = spaces / name, datetime.now(UTC)
    own.mkdir(parents=True, exist_ok=True)
    with exclusive(own / LOCK):
        for left in own.glob(".*.tmp"):  # by a training that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = own / f"{now:{_VERSION}}"
        with new_folder(folder) as aside:
            write(aside)
            write_table(aside / IDS, pa.table({"id": pa.array(ids, pa.large_string())}))
            manifest = msgspec.structs.replace(
                made,
                version=folder.name,
                created=now.isoformat(timespec="seconds"),
                files={file.name: sha256_of(file) for file in sorted(aside.iterdir())},
            )
            manifest = msgspec.structs.replace(manifest, checksum=checksum_of(manifest))
            (aside / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    return folder


def made_at(version: str) -> datetime:
    """When a version was made, UTC."""
    return datetime.strptime(version, _VERSION).replace(tzinfo=UTC)


def _check(name: str, ids: Sequence[str], vectors: Vectors) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.size or not np.isfinite(vectors).all():
        raise SnapshotError(
            f"space {name!r} needs finite float32 vectors [items, dim], got {vectors.dtype} {vectors.shape}"
        )
    _check_ids(name, ids, len(vectors))


def _check_ids(name: str, ids: Sequence[str], items: int) -> None:
    if not _NAME.fullmatch(name) or name == TEXT:
        raise SnapshotError(f"a trained space cannot be called {name!r}")
    if len(ids) != items or len(set(ids)) != len(ids):
        raise SnapshotError(f"space {name!r} has {items} vectors for {len(set(ids))} distinct ids of {len(ids)}")
