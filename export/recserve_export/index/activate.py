"""Which encoder is served, always together with its index: activate, roll back, remove.

A version is tried against its canonical vectors before anything is published. What is published is one name, the
snapshot's: servers get both or neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recserve_export.encoder.checks.canonical import verify_stored
from recserve_export.encoder.lock import only_export
from recserve_export.errors import ExportError
from recserve_export.index.engine_choice import Settings
from recserve_export.index.milvus import ready_in_milvus
from recserve_export.stages import Stage, silent
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.encoder.loaded import loaded
from recserve_server_ext.encoder.versions import Version, discard, find, made_by
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest
from recserve_server_ext.index.pointers import current, published_encoder
from recserve_server_ext.index.snapshot_versions import activate as publish_snapshot
from recserve_server_ext.index.snapshot_versions import before_last_encoder, newest_of
from recserve_server_ext.supervisor.run_folder import is_held


@dataclass(frozen=True)
class Activated:
    """What is served now.

    Attributes:
        version: The encoder.
        snapshot: The index that it made.
        is_new: Whether something changed.
    """

    version: Version
    snapshot: SnapshotManifest
    is_new: bool


def activate(workspace: Workspace, name: str, *, store: str = "", milvus: MilvusSettings | None = None) -> Activated:
    """Serve an encoder that has an index, with the newest one; changes since then are served over it.

    Args:
        workspace: Where encoders, snapshots and catalogue are.
        name: Number, name or fingerprint of the version.
        store: URL of the catalogue store; empty takes the file in the workspace.
        milvus: Where Milvus is, for an index that is searched there.

    Raises:
        ServerError: There is no such version, it is damaged, or the catalogue cannot be read.
        ExportError: It gives other vectors than at its export, or no index of today's catalogue was made by it.
    """
    version = _proven(find(workspace.encoder, name))
    fingerprint = version.usable().runtime_fingerprint
    found = newest_of(workspace.snapshots, fingerprint)
    served = published_encoder(workspace.snapshots)
    if found is None or not _fits(workspace, store, found):
        what = f"the published index was made by encoder {served}" if served else "there is no index"
        raise ExportError(f"{what}, and none of today's catalogue by {fingerprint} ({version.name}); {_anew(version)}")
    if served == fingerprint:
        return Activated(version, read_manifest(current(workspace.snapshots), verify=False), is_new=False)
    return _published(workspace, version, found, milvus)


def activate_anew(
    workspace: Workspace,
    name: str,
    settings: Settings | None = None,
    *,
    store: str = "",
    milvus: MilvusSettings | None = None,
    stage: Stage = silent,
) -> Activated:
    """Build the index of an encoder and then serve both; goes on where it was killed.

    Arguments and errors are those of `recserve_export.index.build.build` and `activate`.
    """
    from recserve_export.index.build import build

    version = _proven(find(workspace.encoder, name))
    built = build(workspace, version.folder, settings, store=store, milvus=milvus, stage=stage)
    return Activated(version, built.manifest, built.is_new)


def roll_back(workspace: Workspace, *, store: str = "", milvus: MilvusSettings | None = None) -> Activated:
    """Serve the encoder and the index that were served before the encoder changed last.

    Arguments are those of `activate`.

    Raises:
        ServerError: There are none, or they are gone or damaged.
        ExportError: The encoder gives other vectors than at its export, or that index is not of today's catalogue.
    """
    snapshot = before_last_encoder(workspace.snapshots)
    version = made_by(workspace.encoder, snapshot.encoder)
    if version is None:
        raise ExportError(
            f"snapshot {snapshot.id}, which was served before, was made by encoder {snapshot.encoder}, and that is not "
            f"in {workspace.encoder} any more; export it again"
        )
    if not _fits(workspace, store, snapshot):
        raise ExportError(f"snapshot {snapshot.id}, which was served before, is of an older import; {_anew(version)}")
    return _published(workspace, _proven(version), snapshot, milvus)


def remove(workspace: Workspace, name: str) -> Version:
    """Remove a version that is not served.

    Raises:
        ServerError: There is no such version.
        ExportError: It is served, or a running server still has it loaded.
        OSError: The folder cannot be written.
    """
    version = find(workspace.encoder, name)
    if version.manifest is not None:
        fingerprint = version.manifest.runtime_fingerprint
        if published_encoder(workspace.snapshots) == fingerprint:
            raise ExportError(
                f"version {version.name} is served; activate another one first, see: recserve encoder list"
            )
        for folder in workspace.run.iterdir() if workspace.run.is_dir() else ():
            if folder.is_dir() and fingerprint in loaded(folder) and is_held(folder):
                raise ExportError(
                    f"the server that runs from {folder} still has version {version.name} loaded; try again in a minute"
                )
    with only_export(workspace.encoder):
        discard(workspace.encoder, version)
    return version


def _proven(version: Version) -> Version:
    """A version that gives the vectors of its export on this machine."""
    version.usable()
    verify_stored(version.folder)
    return version


def _published(
    workspace: Workspace, version: Version, snapshot: SnapshotManifest, milvus: MilvusSettings | None
) -> Activated:
    ready = ready_in_milvus(milvus or MilvusSettings())
    published = publish_snapshot(workspace.snapshots, snapshot.id, snapshot.encoder, ready)
    return Activated(version, published, is_new=True)


def _anew(version: Version) -> str:
    return f"build it, and switch to both together, with: recserve encoder activate {version.number} --reindex"


def _fits(workspace: Workspace, store: str, snapshot: SnapshotManifest) -> bool:
    """Whether a snapshot with what changed since is the catalogue of today; without a store it is all there is."""
    place = workspace.store_at(store)
    if isinstance(place, Path) and not place.is_file():
        return True
    with CatalogueStore(place) as opened:
        head = opened.head()
    same = (snapshot.source, snapshot.field_weights) == (head.identity, head.field_weights)
    return same and max(head.imported_at, head.forgotten) <= snapshot.revision
