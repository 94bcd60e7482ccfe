"""The versions of trained spaces: which is current, list, change, go back, clean up.

`HOME/spaces/NAME/CURRENT` names the current version, `PREVIOUS` the one that was current before.
"""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.common.files import LOCK, exclusive, write_file
from recserve_server_ext.index.manifest import MANIFEST
from recserve_server_ext.index.pointers import CURRENT, PREVIOUS, named
from recserve_server_ext.index.trained import TrainedManifest, read_trained, trained_manifest


class KeptVersion(NamedTuple):
    """A version on disk.

    Attributes:
        space: Name of the space.
        folder: Its folder.
        manifest: Its manifest, or `None` where that cannot be read.
        fault: What is wrong with it, or empty.
    """

    space: str
    folder: Path
    manifest: TrainedManifest | None
    fault: str
    is_current: bool


def current_spaces(spaces: Path) -> dict[str, Path]:
    """The folder of the current version of each trained space, by name; that folder may be gone."""
    pointers = {own.name: named(own, CURRENT) for own in (sorted(spaces.iterdir()) if spaces.is_dir() else ())}
    return {name: spaces / name / version for name, version in pointers.items() if version}


def kept_versions(spaces: Path, *, verify: bool = False) -> list[KeptVersion]:
    """All versions of all spaces, by space, the newest first.

    Args:
        spaces: Folder of all trained spaces.
        verify: Whether to compute the checksums of the files.
    """
    found = []
    for own in sorted(spaces.iterdir()) if spaces.is_dir() else ():
        for folder in _folders(own):
            manifest, fault = None, ""
            try:
                manifest = trained_manifest(folder)
                if verify:
                    read_trained(folder)
            except SpaceError as error:
                fault = str(error)
            found.append(KeptVersion(own.name, folder, manifest, fault, folder.name == named(own, CURRENT)))
    return found


def last_training(spaces: Path) -> float | None:
    """When a space was trained last, in seconds since 1970; `None` without any."""
    made = [one.manifest.created for one in kept_versions(spaces) if one.manifest is not None]
    return max((datetime.fromisoformat(created).timestamp() for created in made), default=None)


def find_version(spaces: Path, name: str, version: str) -> Path:
    """The folder of a version; raises SpaceError where there is no such space or version."""
    there = _folders(spaces / name)
    if not there:
        known = sorted({one.space for one in kept_versions(spaces)})
        raise SpaceError(f"no trained space {name!r} in {spaces}; there are: {', '.join(known) or 'none'}")
    folder = spaces / name / version
    if folder not in there:
        names = ", ".join(found.name for found in there)
        raise SpaceError(f"the space {name!r} has no version {version!r}; there are: {names}")
    return folder


def version_before(spaces: Path, name: str) -> Path:
    """The folder of the version that was current before; raises SpaceError where there was none, or it is gone."""
    version = named(spaces / name, PREVIOUS)
    if not version:
        raise SpaceError(f"nothing to go back to: no other version of the space {name!r} was current before")
    return find_version(spaces, name, version)


def make_current(folder: Path) -> None:
    """Make a version the current one of its space; versions but this, the one before and newer ones are removed."""
    own = folder.parent
    with exclusive(own / LOCK):
        before = named(own, CURRENT)
        if before not in ("", folder.name):
            write_file(own / PREVIOUS, f"{before}\n".encode())
        write_file(own / CURRENT, f"{folder.name}\n".encode())
        for other in _folders(own):
            if other.name < folder.name and other.name != named(own, PREVIOUS):
                shutil.rmtree(other, ignore_errors=True)


def collect_versions(spaces: Path) -> list[str]:
    """Remove all versions but the current ones, and what killed trainings left; SPACE/VERSION of each."""
    removed = []
    for own in sorted(spaces.iterdir()) if spaces.is_dir() else ():
        if not own.is_dir():
            continue
        with exclusive(own / LOCK):
            for folder in sorted(own.iterdir()):
                if folder.is_dir() and folder.name != named(own, CURRENT):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(f"{own.name}/{folder.name}")
            (own / PREVIOUS).unlink(missing_ok=True)
    return removed


def _folders(own: Path) -> list[Path]:
    """The folders of versions, the newest first: names begin with the moment they were made."""
    entries = own.iterdir() if own.is_dir() else ()
    return sorted((one for one in entries if not one.name.startswith(".") and (one / MANIFEST).is_file()), reverse=True)
