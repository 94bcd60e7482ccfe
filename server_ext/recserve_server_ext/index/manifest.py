"""The manifest of a snapshot, `manifest.json`: what it holds and what it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import read_json, verify_files
from recserve_server_ext.index.matrix import MatrixManifest
from recserve_server_ext.index.model import ModelManifest
from recserve_server_ext.index.space import INPUTS, TEXT, VECTORS, SpaceManifest
from recserve_server_ext.networks.network import NetworkManifest

MANIFEST = "manifest.json"
FORMAT = 6


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `manifest.json`.

    Attributes:
        id: Name of the snapshot's folder.
        created: When it was made, UTC, ISO 8601.
        encoder: Runtime fingerprint of the encoder that made the vectors.
        revision: Revision of the catalogue.
        source: Identity of the catalogue store.
        items: Number of items.
        spaces: Its spaces by name; `text` is always among them.
        matrices: Its item-to-item matrices by name.
        models: Its other models by name.
        field_weights: Weight a_f of each text field in the item vectors.
        versions: Versions of the packages that made it.
        files: SHA-256 of every other file of the folder, by path.
        format: Version of this layout.
        checksum: SHA-256 of this manifest's JSON with an empty checksum.
    """

    id: str
    created: str
    encoder: str
    revision: int
    source: str = ""
    items: int
    spaces: dict[str, SpaceManifest]
    matrices: dict[str, MatrixManifest] = {}
    models: dict[str, ModelManifest] = {}
    field_weights: dict[str, float] = {}
    versions: dict[str, str] = {}
    files: dict[str, str]
    format: int = FORMAT
    checksum: str = ""

    @property
    def trained(self) -> dict[str, str]:
        """Version of each trained space, matrix and model, by name."""
        spaces = {name: of.version for name, of in self.spaces.items() if name != TEXT}
        matrices = {name: of.version for name, of in self.matrices.items()}
        return spaces | matrices | {name: of.version for name, of in self.models.items()}

    @property
    def networks(self) -> list[NetworkManifest]:
        """The networks of its spaces."""
        return [space.network for space in self.spaces.values() if space.network is not None]

    @property
    def text(self) -> SpaceManifest:
        """The space of the encoder's vectors."""
        return self.spaces[TEXT]


def write_manifest(folder: Path, manifest: SnapshotManifest) -> None:
    """Write the manifest with its own checksum."""
    manifest = msgspec.structs.replace(manifest, checksum=checksum_of(manifest))
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_manifest(folder: Path, *, verify: bool = True, verify_vectors: bool = True) -> SnapshotManifest:
    """Read the manifest of a snapshot and check the files against it.

    Args:
        verify: Whether to compute the checksums of the files; the manifest's own is always checked.
        verify_vectors: Whether also those of the vectors, where damage can change no more than scores.

    Raises:
        SnapshotError: The manifest is missing, damaged or of another format, or a file is missing or damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise SnapshotError(f"no snapshot at {folder} (no {MANIFEST}); build one with: recserve index build")
    manifest = read_json(path, SnapshotManifest, FORMAT, SnapshotError, REBUILD)
    check_own(path, manifest, SnapshotError, REBUILD)
    vectors = {name: of for name, of in manifest.files.items() if Path(name).name in (VECTORS, INPUTS)}
    others = {name: of for name, of in manifest.files.items() if name not in vectors}
    verify_files(folder, others, SnapshotError, REBUILD, checksums=verify)
    verify_files(folder, vectors, SnapshotError, REBUILD, checksums=verify and verify_vectors)
    return manifest


def checksum_of(manifest: Any) -> str:
    """SHA-256 of the JSON of a manifest with an empty checksum."""
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(manifest, checksum=""))).hexdigest()


def check_own(path: Path, manifest: Any, error: type[Exception], advice: str) -> None:
    """Raise an error of this type, with the advice, where a manifest read from `path` has another checksum."""
    if (checksum := checksum_of(manifest)) != manifest.checksum:
        raise error(f"{path} is damaged: SHA-256 {checksum[:12]}, manifest says {manifest.checksum[:12]}; {advice}")
