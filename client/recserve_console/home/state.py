"""Disk, memory, snapshot and spaces of a home and the server that runs over it."""

from __future__ import annotations

import os
import re
import shutil
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import psutil

from recserve_export.training.run.verdict import Verdict
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import CURRENT, PREVIOUS, named
from recserve_server_ext.index.snapshot_versions import kept
from recserve_server_ext.index.trained_versions import kept_versions

#: The program of a model's process.
_MODEL: Final = re.compile(r"/(\w+)/1/model\.py$")


class SpaceVersion(NamedTuple):
    """A version of a trained space.

    Attributes:
        space: Name of the space.
        version: Name of the version.
        made_s: When it was made, in seconds since 1970; `None` where its manifest cannot be read.
        items: Items that have a vector.
        log: Number of the newest interaction that it was trained on.
        is_current: Whether it serves, or will with the next index build.
        can_roll_back: Whether it serves, and another version served before.
        fault: What is wrong with it, or empty.
        judged: How it was compared before it served; `None` where it does not say.
    """

    space: str
    version: str
    made_s: float | None
    items: int
    log: int
    is_current: bool
    can_roll_back: bool
    fault: str
    judged: Verdict | None


class SnapshotVersion(NamedTuple):
    """A snapshot that is kept.

    Attributes:
        name: Name of the snapshot.
        made_s: When it was made, in seconds since 1970; `None` where its manifest cannot be read.
        items: Its items.
        revision: Revision of the catalogue that it was made from.
        encoder: Fingerprint of the encoder that serves with it.
        is_current: Whether it is served.
        fault: What is wrong with it, or empty.
    """

    name: str
    made_s: float | None
    items: int
    revision: int
    encoder: str
    is_current: bool
    fault: str


class HomeState(NamedTuple):
    """State of a home.

    Attributes:
        bytes: Size of all its files.
        free_bytes: Free on its disk.
        total_bytes: Size of its disk.
        memory_bytes: Resident memory of the processes of the server; 0 where none runs from this home.
        began_s: When the process of each model began, in seconds since 1970: a new one shows that the last one died.
        snapshot: Name of the published snapshot, or empty.
        spaces: Versions of trained spaces, the newest first.
    """

    bytes: int
    free_bytes: int
    total_bytes: int
    memory_bytes: int
    began_s: dict[str, float]
    snapshot: str
    spaces: list[SpaceVersion]


def home_state(home: Path) -> HomeState:
    """Read the state of a home; raises OSError where that cannot be read."""
    workspace, disk = Workspace(home), shutil.disk_usage(home)
    memory_bytes, began_s = _processes(workspace.run.resolve())
    return HomeState(
        _size(home),
        disk.free,
        disk.total,
        memory_bytes,
        began_s,
        named(workspace.snapshots, CURRENT),
        space_versions(home),
    )


def snapshot_versions(home: Path) -> list[SnapshotVersion]:
    """The snapshots that are kept, the newest first."""
    found = []
    for one in kept(Workspace(home).snapshots):
        made_s, items, revision, encoder = None, 0, 0, ""
        if one.manifest is not None:
            made_s = datetime.fromisoformat(one.manifest.created).timestamp()
            items, revision, encoder = one.manifest.items, one.manifest.revision, one.manifest.encoder
        found.append(SnapshotVersion(one.name, made_s, items, revision, encoder, one.is_current, one.fault))
    return found


def space_versions(home: Path) -> list[SpaceVersion]:
    """All versions of all trained spaces, by space, the newest first."""
    found = []
    for one in kept_versions(Workspace(home).spaces):
        made_s, items, log, judged = None, 0, 0, None
        if one.manifest is not None:
            made_s, items = datetime.fromisoformat(one.manifest.created).timestamp(), one.manifest.items
            log = int(one.manifest.made_from.get("log", {}).get("number") or 0)
            said = one.manifest.made_from.get("judged")
            judged = None if said is None else msgspec.convert(said, Verdict)
        has_before = one.is_current and bool(named(one.folder.parent, PREVIOUS))
        found.append(
            SpaceVersion(one.space, one.folder.name, made_s, items, log, one.is_current, has_before, one.fault, judged)
        )
    return found


def _size(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total


def _processes(run: Path) -> tuple[int, dict[str, float]]:
    """Resident bytes of the processes that work in the folder of running servers; when that of each model began."""
    total = 0
    began_s: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline", "memory_info", "create_time"]):
        words, memory = process.info["cmdline"] or [], process.info["memory_info"]
        if memory is not None and any(f"{run}{os.sep}" in word for word in words):
            total += memory.rss
            began_s |= {found[1]: process.info["create_time"] for word in words if (found := _MODEL.search(word))}
    return total, began_s
