"""Which snapshot is published: the files of a folder of snapshots that name one."""

from __future__ import annotations

import re
from pathlib import Path

from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import reading, write_file
from recserve_server_ext.index.manifest import read_manifest

CURRENT = "CURRENT"
#: Names the snapshot that was published before the encoder changed last, to go back to both.
PREVIOUS = "PREVIOUS"
#: Names of snapshots and spaces; they cannot lead to another folder.
NAME = re.compile(r"[\w-]+")


def current(snapshots: Path) -> Path:
    """The folder of the published snapshot, which `CURRENT` names; raises SnapshotError without one."""
    pointer = snapshots / CURRENT
    if not pointer.exists():
        raise SnapshotError(f"no snapshot in {snapshots}; build one with: recserve index build")
    with reading(pointer, SnapshotError, REBUILD):
        name = pointer.read_text("utf-8").strip()
    if not NAME.fullmatch(name) or not (snapshots / name).is_dir():
        raise SnapshotError(f"{pointer} names {name!r}, which is not there; {REBUILD}")
    return snapshots / name


def published(snapshots: Path) -> str:
    """Name of the published snapshot; empty without one."""
    try:
        return current(snapshots).name
    except SnapshotError:
        return ""


def named(snapshots: Path, pointer: str) -> str:
    """The name in a pointer file, which may be gone; empty without the file."""
    try:
        return (snapshots / pointer).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def published_encoder(snapshots: Path) -> str:
    """Runtime fingerprint of the encoder of the published snapshot; empty without a sound one."""
    try:
        return read_manifest(current(snapshots), verify=False).encoder
    except SnapshotError:
        return ""


def publish(snapshots: Path, name: str, encoder: str) -> None:
    """Name a snapshot in `CURRENT`, and so its encoder, whose runtime fingerprint is given. The caller holds `LOCK`."""
    before = published_encoder(snapshots)
    if before not in ("", encoder):
        write_file(snapshots / PREVIOUS, f"{named(snapshots, CURRENT)}\n".encode())
    write_file(snapshots / CURRENT, f"{name}\n".encode())
