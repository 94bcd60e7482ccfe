"""`manifest.json`: what a snapshot holds and what it was made from."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import sha256_of

MANIFEST = "manifest.json"
FORMAT = 1


class EngineManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The engine of a snapshot.

    Attributes:
        name: `hnsw`, `scan`, `exact` or `milvus`.
        parameters: What it was built with and searches with: `M`, `ef_construction` and `ef` of hnsw and milvus;
            `lists`, `codes`, `nprobe` and `rescored` of scan.
    """

    name: str
    parameters: dict[str, int] = {}


class SnapshotManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of `manifest.json`.

    Attributes:
        id: Name of the snapshot's folder.
        created: Moment it was made, UTC, ISO 8601.
        encoder: Runtime fingerprint of the encoder that made the vectors.
        revision: Revision of the catalogue it was made from.
        source: Identity of what that catalogue was imported from.
        items: Number of items.
        dim: Length of a vector.
        engine: What searches it.
        field_weights: Weight a_f of each text field in the item vectors, as the catalogue had them.
        recall_target: Recall@10 that the engine's parameters were chosen for.
        measured_with: Users that this was measured with; empty = not told.
        versions: Of the packages that made it.
        files: SHA-256 of every other file of the folder.
        format: Version of this layout.
        checksum: SHA-256 of this manifest's JSON without this field's value.
    """

    id: str
    created: str
    encoder: str
    revision: int
    source: str = ""
    items: int
    dim: int
    engine: EngineManifest
    field_weights: dict[str, float] = {}
    recall_target: float | None = None
    measured_with: str
    versions: dict[str, str] = {}
    files: dict[str, str]
    format: int = FORMAT
    checksum: str = ""


class _Format(msgspec.Struct):
    """The one field that every version of the manifest has."""

    format: int


def write_manifest(folder: Path, manifest: SnapshotManifest) -> None:
    """Write the manifest with its own checksum."""
    manifest = msgspec.structs.replace(manifest, checksum=_checksum(manifest))
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_manifest(folder: Path, *, verify: bool = True) -> SnapshotManifest:
    """Read the manifest of a snapshot and check the files against it.

    Args:
        folder: A snapshot.
        verify: Whether to compute the checksums of the files; the manifest's own is always checked.

    Raises:
        SnapshotError: The manifest is missing, damaged or of another format, or a file is missing or damaged.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
        found_format = msgspec.json.decode(content, type=_Format).format
        if found_format != FORMAT:
            raise SnapshotError(f"{path} has format {found_format}, this version reads {FORMAT}; {REBUILD}")
        manifest = msgspec.json.decode(content, type=SnapshotManifest)
    except FileNotFoundError:
        raise SnapshotError(f"no snapshot at {folder} (no {MANIFEST}); build one with: recserve index build") from None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SnapshotError(f"{path} cannot be read: {error}; {REBUILD}") from error
    if (found := _checksum(manifest)) != manifest.checksum:
        raise SnapshotError(_damaged(path, found, manifest.checksum))
    for name, expected in manifest.files.items():
        file = folder / name
        if not file.is_file():
            raise SnapshotError(f"{file} is missing; {REBUILD}")
        if verify and (found := sha256_of(file)) != expected:
            raise SnapshotError(_damaged(file, found, expected))
    return manifest


def _checksum(manifest: SnapshotManifest) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(manifest, checksum=""))).hexdigest()


def _damaged(path: Path, found: str, expected: str) -> str:
    return f"{path} is damaged: SHA-256 {found[:12]}, manifest says {expected[:12]}; {REBUILD}"
