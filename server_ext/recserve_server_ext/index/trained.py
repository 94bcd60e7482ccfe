"""Trained spaces and matrices on disk, by item id; new snapshots take over the current version.

`HOME/spaces/NAME/VERSION` holds `manifest.json`, `ids.arrow`, and `vectors.npy` with perhaps `inputs.npy` and
`text_map.npy` and `network.onnx`, or an item-to-item matrix; see `recserve_server_ext.index.matrix`.
`HOME/spaces/NAME/CURRENT` names the current version.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa

from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.files import exclusive, new_folder, reading, sha256_of, verify_files, write_file
from recserve_server_ext.index.fields import read_table, write_table
from recserve_server_ext.index.manifest import MANIFEST
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.index.snapshot import CURRENT, IDS, LOCK
from recserve_server_ext.index.space import INPUTS, TEXT, TEXT_MAP, VECTORS, load_array, map_array
from recserve_server_ext.networks.network import NETWORK, Network, NetworkManifest, read_network

_TRAIN_AGAIN: Final = "train the space again"
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")


class TrainedManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest of a version of a trained space.

    Attributes:
        version: Name of its folder.
        created: When it was made, UTC, ISO 8601.
        dim: Length of a vector; 0 for a matrix.
        items: Number of items.
        parameters: Numbers that the strategy needs, by name.
        network: See `recserve_server_ext.index.space.SpaceManifest`.
        made_from: What it was trained from, and how.
        files: SHA-256 of every other file of the folder.
    """

    version: str
    created: str
    dim: int
    items: int
    parameters: dict[str, float] = {}
    network: NetworkManifest | None = None
    made_from: dict[str, Any] = {}
    files: dict[str, str]


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
        """Open a version, verifying every file; raises SnapshotError where it is missing or damaged."""
        manifest = read_trained(folder)
        shape = manifest.items, manifest.dim
        vectors = map_array(folder / VECTORS, shape)
        inputs = map_array(folder / INPUTS, shape) if (folder / INPUTS).is_file() else None
        network = read_network(folder, manifest.network, _TRAIN_AGAIN)
        return cls(manifest, _ids(folder), vectors, inputs, load_array(folder / TEXT_MAP), network)


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
        """Open a version, verifying every file; raises SnapshotError where it is missing or damaged."""
        manifest = read_trained(folder)
        return cls(manifest, _ids(folder), ItemMatrix.load(folder, manifest.items, manifest.version, _TRAIN_AGAIN))


def read_trained(folder: Path) -> TrainedManifest:
    """The manifest of a version, whose files are verified; raises SnapshotError where one is missing or damaged."""
    with reading(folder / MANIFEST, SnapshotError, _TRAIN_AGAIN):
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=TrainedManifest)
    verify_files(folder, manifest.files, SnapshotError, _TRAIN_AGAIN)
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
    made_from: Mapping[str, Any] | None = None,
) -> Path:
    """Write a version of a trained space and make it the current one, which the next snapshot takes over; its folder.

    Args:
        ids: Item id of each vector, distinct.
        vectors: [items, dim] finite float32, at least one.
        inputs: See `recserve_server_ext.index.space.SpaceContent`.
        text_map: See `recserve_server_ext.index.space.SpaceContent`.
        parameters: Numbers that the strategy needs, by name.
        network: See `recserve_server_ext.index.space.SpaceContent`.
        made_from: What it was trained from, and how.

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
            (folder / NETWORK).write_bytes(network.content)

    made = TrainedManifest(
        version="", created="", dim=vectors.shape[1], items=len(vectors), parameters=dict(parameters or {}),
        network=None if network is None else network.manifest, made_from=dict(made_from or {}), files={},
    )  # fmt: skip
    return _publish(spaces, name, ids, made, write)


def publish_matrix(
    spaces: Path, name: str, ids: Sequence[str], matrix: ItemMatrix, *, made_from: Mapping[str, Any] | None = None
) -> Path:
    """Write a version of a trained item-to-item matrix and make it the current one; its folder.

    Args:
        ids: Item id of each row, distinct.
        matrix: Over these items.
        made_from: What it was trained from, and how.

    Raises:
        SnapshotError: The name or the content is wrong.
    """
    _check_ids(name, ids, matrix.items)
    matrix.check(name, len(ids))
    made = TrainedManifest(version="", created="", dim=0, items=len(ids), made_from=dict(made_from or {}), files={})
    return _publish(spaces, name, ids, made, matrix.write)


def _publish(spaces: Path, name: str, ids: Sequence[str], made: TrainedManifest, write: Callable[[Path], None]) -> Path:
    own, now = spaces / name, datetime.now(UTC)
    own.mkdir(parents=True, exist_ok=True)
    with exclusive(own / LOCK):
        folder = own / f"{now:%Y%m%dT%H%M%S%f}"
        with new_folder(folder) as aside:
            write(aside)
            write_table(aside / IDS, pa.table({"id": pa.array(ids, pa.large_string())}))
            manifest = msgspec.structs.replace(
                made,
                version=folder.name,
                created=now.isoformat(timespec="seconds"),
                files={file.name: sha256_of(file) for file in sorted(aside.iterdir())},
            )
            (aside / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        write_file(own / CURRENT, f"{folder.name}\n".encode())
    return folder


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


def current_spaces(spaces: Path) -> dict[str, Path]:
    """The folder of the current version of each trained space, by name; raises SnapshotError where one is gone."""
    found = {}
    for own in sorted(spaces.iterdir()) if spaces.is_dir() else ():
        if not (own / CURRENT).is_file():
            continue
        folder = own / (own / CURRENT).read_text(encoding="utf-8").strip()
        if not folder.is_dir():
            raise SnapshotError(f"{own / CURRENT} names {folder.name!r}, which is not there; {_TRAIN_AGAIN}")
        found[own.name] = folder
    return found
