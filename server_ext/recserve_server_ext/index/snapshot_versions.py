"""The snapshots of a folder: list, activate, roll back, clean up, and the fallback from a damaged one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.files import LOCK, exclusive
from recserve_server_ext.index.manifest import MANIFEST, SnapshotManifest, read_manifest
from recserve_server_ext.index.pointers import PREVIOUS, current, named, publish, published

T = TypeVar("T")
#: Called with the folder of a snapshot before it is published; raises ServerError where it cannot be served.
Ready = Callable[[Path], None]
_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A snapshot on disk.

    Attributes:
        manifest: Its manifest, or `None` where that cannot be read.
        fault: What is wrong with it, or empty.
    """

    name: str
    manifest: SnapshotManifest | None
    fault: str
    is_current: bool


def kept(snapshots: Path, *, verify: bool = False) -> list[Kept]:
    """All snapshots of a folder, the newest first."""
    name = published(snapshots)
    found = []
    for folder in _folders(snapshots):
        manifest, fault = None, ""
        try:
            manifest = read_manifest(folder, verify=False)
            if verify:
                read_manifest(folder)
        except SnapshotError as error:
            fault = str(error)
        found.append(Kept(folder.name, manifest, fault, folder.name == name))
    return found


def first_usable(snapshots: Path, use: Callable[[Path], T]) -> T:
    """What `use` makes of the published snapshot, or of the newest that it accepts where that one is damaged.

    Raises:
        SnapshotError: `use` accepts none; the error is about the published snapshot.
    """
    try:
        return use(current(snapshots))
    except SnapshotError as error:
        first = error
    for folder in _folders(snapshots):
        if folder.name == published(snapshots):
            continue
        try:
            found = use(folder)
        except SnapshotError:
            continue
        _log.error("%s; snapshot %s is used instead", first, folder.name)
        return found
    raise first


def activate(snapshots: Path, name: str, encoder: str, ready: Ready = lambda _: None) -> SnapshotManifest:
    """Publish an existing snapshot, after checking every file; servers change to it without a pause.

    Args:
        encoder: Runtime fingerprint of the encoder that must have made it.

    Raises:
        SnapshotError: There is no such snapshot, it is damaged, or another encoder made it.
    """
    with exclusive(snapshots / LOCK):
        folder = snapshots / name
        if folder not in _folders(snapshots):
            there = ", ".join(found.name for found in _folders(snapshots)) or "none"
            raise SnapshotError(f"no snapshot {name!r} in {snapshots}; there are: {there}")
        manifest = read_manifest(folder)
        if manifest.encoder != encoder:
            raise SnapshotError(f"snapshot {name} was made with encoder {manifest.encoder}, {encoder} is served")
        ready(folder)
        publish(snapshots, name, encoder)
    return manifest


def newest_of(snapshots: Path, encoder: str) -> SnapshotManifest | None:
    """The newest snapshot made by the encoder with this runtime fingerprint, or `None`."""
    manifests = (one.manifest for one in kept(snapshots) if one.manifest is not None)
    return next((manifest for manifest in manifests if manifest.encoder == encoder), None)


def before_last_encoder(snapshots: Path) -> SnapshotManifest:
    """The snapshot that was published before the encoder changed last; raises SnapshotError where it is gone."""
    name = named(snapshots, PREVIOUS)
    if not name:
        raise SnapshotError(f"nothing to go back to in {snapshots}: no other encoder was served before")
    found = next((one for one in kept(snapshots) if one.name == name), None)
    if found is None or found.manifest is None:
        fault = "is gone" if found is None else found.fault
        raise SnapshotError(f"snapshot {name}, which was served before the encoder changed, {fault}")
    return found.manifest


def rollback(snapshots: Path, encoder: str, ready: Ready = lambda _: None) -> SnapshotManifest:
    """Publish the newest usable snapshot that is older than the published one; changes since are served over it.

    For the arguments see `activate`.

    Raises:
        SnapshotError: There is none.
    """
    name = current(snapshots).name
    for folder in _folders(snapshots):
        if folder.name < name:
            try:
                return activate(snapshots, folder.name, encoder, ready)
            except SnapshotError as error:
                _log.warning("%s", error)
    raise SnapshotError(f"no usable snapshot in {snapshots} is older than {name}")


def collect(snapshots: Path) -> list[str]:
    """Remove all folders but the published snapshot, also those that killed writers left; the removed names."""
    removed = []
    with exclusive(snapshots / LOCK):
        keep = current(snapshots).name
        for folder in sorted(snapshots.iterdir()):
            if folder.is_dir() and folder.name != keep:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder.name)
        (snapshots / PREVIOUS).unlink(missing_ok=True)
    return removed


def _folders(snapshots: Path) -> list[Path]:
    """The folders of snapshots, the newest first: names begin with the moment they were made."""
    entries = snapshots.iterdir() if snapshots.is_dir() else ()
    found = [entry for entry in entries if not entry.name.startswith(".") and (entry / MANIFEST).is_file()]
    return sorted(found, reverse=True)
