"""The snapshots of a folder: which there are, which one serves, and what to fall back to when it is damaged."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.common.files import exclusive
from recserve_server_ext.index.manifest import MANIFEST, SnapshotManifest, read_manifest
from recserve_server_ext.index.snapshot import LOCK, PREVIOUS, current, publish

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Kept(NamedTuple):
    """A snapshot on disk.

    Attributes:
        name: Of its folder.
        manifest: What it holds; none = it cannot be read.
        fault: Why not, or what is damaged; empty = nothing is known to be.
        is_current: Whether it is published.
    """

    name: str
    manifest: SnapshotManifest | None
    fault: str
    is_current: bool


def kept(snapshots: Path, *, verify: bool = False) -> list[Kept]:
    """All snapshots of a folder, the newest first.

    Args:
        snapshots: The folder.
        verify: Whether to compute the checksums of their files.
    """
    published = _published(snapshots)
    found = []
    for folder in _folders(snapshots):
        manifest, fault = None, ""
        try:
            manifest = read_manifest(folder, verify=False)
            if verify:
                read_manifest(folder)
        except SnapshotError as error:
            fault = str(error)
        found.append(Kept(folder.name, manifest, fault, folder.name == published))
    return found


def first_usable(snapshots: Path, use: Callable[[Path], T]) -> T:
    """What `use` makes of the published snapshot, or, where that one is damaged, of the newest that is not.

    Raises:
        SnapshotError: Of the published one, when none can be used.
    """
    try:
        published = current(snapshots)
        return use(published)
    except SnapshotError as error:
        first = error
    for folder in _folders(snapshots):
        if folder.name == _published(snapshots):
            continue
        try:
            found = use(folder)
        except SnapshotError:
            continue
        _log.error("%s; snapshot %s is used instead", first, folder.name)
        return found
    raise first


def activate(
    snapshots: Path, name: str, encoder: str, ready: Callable[[Path], None] = lambda _: None
) -> SnapshotManifest:
    """Publish a snapshot that is there, after checking every file; servers change to it without a pause.

    Args:
        snapshots: The folder.
        name: Of the snapshot.
        encoder: Runtime fingerprint it must have been made with.
        ready: Called with its folder before it is published; raises ServerError where it cannot be served.

    Raises:
        SnapshotError: There is none of this name, it is damaged, or made with another encoder.
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
    """The newest snapshot that an encoder made and whose manifest can be read.

    Args:
        snapshots: The folder.
        encoder: Its runtime fingerprint.
    """
    for one in kept(snapshots):
        if one.manifest is not None and one.manifest.encoder == encoder:
            return one.manifest
    return None


def before_last_encoder(snapshots: Path) -> SnapshotManifest:
    """The snapshot that was published before the encoder changed last.

    Raises:
        SnapshotError: The encoder never changed, or that snapshot is gone or damaged.
    """
    try:
        name = (snapshots / PREVIOUS).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise SnapshotError(f"nothing to go back to in {snapshots}: no other encoder was served before") from None
    found = next((one for one in kept(snapshots) if one.name == name), None)
    if found is None or found.manifest is None:
        fault = "is gone" if found is None else found.fault
        raise SnapshotError(f"snapshot {name}, which was served before the encoder changed, {fault}")
    return found.manifest


def rollback(snapshots: Path, encoder: str, ready: Callable[[Path], None] = lambda _: None) -> SnapshotManifest:
    """Publish the newest usable snapshot that is older than the published one; changes since are served over it.

    Arguments as of `activate`.

    Raises:
        SnapshotError: There is none.
    """
    published = current(snapshots)
    for folder in _folders(snapshots):
        if folder.name < published.name:
            try:
                return activate(snapshots, folder.name, encoder, ready)
            except SnapshotError as error:
                _log.warning("%s", error)
    raise SnapshotError(f"no usable snapshot in {snapshots} is older than {published.name}")


def collect(snapshots: Path) -> list[str]:
    """Remove all but the published snapshot and what writers that were killed left aside; the names removed."""
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
    """The newest first: names begin with the moment they were made."""
    return sorted(_all(snapshots), reverse=True)


def _all(snapshots: Path) -> Iterator[Path]:
    if snapshots.is_dir():
        for folder in snapshots.iterdir():
            if not folder.name.startswith(".") and (folder / MANIFEST).is_file():
                yield folder


def _published(snapshots: Path) -> str:
    try:
        return current(snapshots).name
    except SnapshotError:
        return ""
