"""Versions of exported encoders: `versions/NUMBER-PRECISION-FINGERPRINT`, and a link to the newest of a precision.

The served version is the one that made the published snapshot, so one file, `CURRENT` of the snapshots, names encoder
and index together.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.files import fsync_path, point_link, replace_folder
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import EncoderManifest, Precision, read_manifest

VERSIONS = "versions"
_NAME = re.compile(r"(\d{4,})-([a-z0-9-]+)-([0-9a-f]{16})")
#: Least characters of a fingerprint that name a version; fewer might be meant as a number.
_LEAST_PREFIX = 6


class Version(NamedTuple):
    """An exported encoder on disk.

    Attributes:
        number: Number, counted from 1.
        manifest: Its manifest, or `None` where that cannot be read.
        fault: Why the manifest cannot be read, or empty.
    """

    number: int
    folder: Path
    manifest: EncoderManifest | None
    fault: str = ""

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    def goes_by(self, name: str) -> bool:
        """Whether a number, a folder's name, or (the beginning of) a fingerprint means this version."""
        fingerprint = self.name.rpartition("-")[2] if self.manifest is None else self.manifest.fingerprint
        is_prefix = len(name) >= _LEAST_PREFIX and fingerprint.startswith(name.partition("+")[0])
        return is_prefix or name in (self.name, str(self.number))

    def usable(self) -> EncoderManifest:
        """Its manifest; raises EncoderError where that cannot be read."""
        if self.manifest is None:
            raise EncoderError(self.fault)
        return self.manifest


def versions(encoders: Path) -> list[Version]:
    """All versions of a folder of encoders, oldest first."""
    return [_read(int(match[1]), folder) for folder, match in _numbered(encoders)]


def newest_link(encoders: Path, precision: Precision) -> Path:
    """The link to the newest version of a precision, which may not exist; raises EncoderError for a folder there."""
    link = encoders / precision
    if link.is_dir() and not link.is_symlink():
        raise EncoderError(
            f"{link} is a folder and no link into {encoders / VERSIONS}; remove it, then run: "
            f"recserve export encoder --precision {precision}"
        )
    return link


def find(encoders: Path, name: str) -> Version:
    """The version that a number, a name or (the beginning of) a fingerprint means, or EncoderError."""
    there = versions(encoders)
    found = [one for one in there if one.goes_by(name)]
    if len(found) != 1:
        listed = ", ".join(one.name for one in found or there) or "none"
        what = "several versions" if found else "no version"
        raise EncoderError(f"{what} {name!r} in {encoders}: {listed}; name one of them, see: recserve encoder list")
    return found[0]


def made_by(encoders: Path, fingerprint: str) -> Version | None:
    """The newest version with this runtime fingerprint on this CPU, or `None`."""
    for one in reversed(versions(encoders)):
        if one.manifest is not None and one.manifest.runtime_fingerprint == fingerprint:
            return one
    return None


def active(workspace: Workspace) -> Version | None:
    """The served version, which made the published snapshot; `None` where it is not here, or nothing is published."""
    # Imported here: it needs packages that an export does not have.
    from recserve_server_ext.index.pointers import published_encoder

    fingerprint = published_encoder(workspace.snapshots)
    return made_by(workspace.encoder, fingerprint) if fingerprint else None


@contextmanager
def new_version(encoders: Path, precision: Precision) -> Iterator[Path]:
    """Yield a temporary folder that becomes the newest version of its precision when the block ends well.

    It replaces a version with the same fingerprint. When the block fails, nothing is left behind. The caller holds the
    export's lock.

    Raises:
        EncoderError: A folder is in the place of the precision's link.
    """
    link = newest_link(encoders, precision)
    encoders.mkdir(parents=True, exist_ok=True)
    aside = encoders / f".{precision}.{uuid.uuid4().hex}.tmp"
    aside.mkdir()
    try:
        yield aside
        name = _name_for(encoders, read_manifest(aside, verify=False))
        (encoders / VERSIONS).mkdir(exist_ok=True)
        replace_folder(aside, encoders / VERSIONS / name)
        point_link(link, Path(VERSIONS) / name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def link_to(encoders: Path, version: Version) -> None:
    """Point the link of a version's precision to it; raises EncoderError where a folder is in its place."""
    link = newest_link(encoders, version.usable().precision)
    if link.resolve() != version.folder.resolve():
        point_link(link, Path(VERSIONS) / version.name)


def discard(encoders: Path, version: Version) -> None:
    """Remove a version; the link of its precision goes to the newest left. The caller holds the export's lock."""
    aside = encoders / f".{version.name}.{uuid.uuid4().hex}.tmp"
    os.rename(version.folder, aside)
    fsync_path(version.folder.parent)
    shutil.rmtree(aside, ignore_errors=True)
    left = versions(encoders)
    for link in [path for path in encoders.iterdir() if path.is_symlink() and not path.exists()]:
        newest = [one.name for one in left if one.manifest is not None and one.manifest.precision == link.name]
        if newest:
            point_link(link, Path(VERSIONS) / newest[-1])
        else:
            link.unlink()
    fsync_path(encoders)


def _read(number: int, folder: Path) -> Version:
    try:
        return Version(number, folder, read_manifest(folder, verify=False))
    except EncoderError as error:
        return Version(number, folder, None, str(error))


def _numbered(encoders: Path) -> list[tuple[Path, re.Match[str]]]:
    folder = encoders / VERSIONS
    entries = folder.iterdir() if folder.is_dir() else ()
    found = [(path, match) for path in entries if (match := _NAME.fullmatch(path.name)) is not None]
    return sorted(found, key=lambda one: int(one[1][1]))


def _name_for(encoders: Path, manifest: EncoderManifest) -> str:
    """The name of the version with the same fingerprint, or a new name."""
    numbered = _numbered(encoders)
    for folder, match in numbered:
        if match[3] == manifest.fingerprint:
            return folder.name
    number = 1 + max((int(match[1]) for _, match in numbered), default=0)
    return f"{number:04d}-{manifest.precision}-{manifest.fingerprint}"
