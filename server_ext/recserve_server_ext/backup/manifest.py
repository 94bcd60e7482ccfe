"""What a backup holds: its manifest, written last, and its tree, which is itself stored in blocks."""

from __future__ import annotations

import hmac
import re
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from recserve_server_ext.backup.sealing import Plain
from recserve_server_ext.common.errors import BackupError
from recserve_server_ext.common.files import read_json, write_file

FORMAT: Final = 1
_ADVICE: Final = "choose another one, see: recserve backup list"
_NAME: Final = re.compile(r"(\d{8}T\d{12})\.json")


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file.

    Attributes:
        path: Where it was, below `home`, `settings` or `stores`.
        blocks: Names of its blocks, in their order.
        bytes: Its size.
        mode: Its permissions.
    """

    path: str
    blocks: list[str]
    bytes: int
    mode: int


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A symbolic link within the home."""

    path: str
    target: str


class StoreState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A copy of a store.

    Attributes:
        kind: What it is a copy of, and so what it can be restored to.
        path: Path of the copy in the tree.
        identity: Identity of the store.
        revision: Its revision.
        ring: Fingerprint of the keys of its pseudonyms; empty without any.
    """

    kind: Literal["sqlite", "postgresql"]
    path: str
    identity: str
    revision: int
    ring: str = ""


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a backup.

    Attributes:
        stores: The stores by name, `catalogue` and `interactions`, as far as there are any.
        snapshot: Name of the published snapshot; empty without one.
        encoder: Runtime fingerprint of its encoder; empty without one.
    """

    files: list[File]
    links: list[Link]
    stores: dict[str, StoreState]
    snapshot: str
    encoder: str


class BackupManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The manifest, which names all that has to be there.

    Attributes:
        id: The moment it was begun, UTC, in microseconds: `YYYYMMDDTHHMMSSffffff`.
        created_us: The same in microseconds since 1970.
        recserve: Version that made it.
        key: Fingerprint of the key that it is sealed by; empty without one.
        tree: Names of the blocks of the tree, in their order.
        blocks: SHA-256 of every block as it is stored, by name, the tree's among them.
        bytes: Size of all files.
        written: Size of the blocks that no earlier backup had.
        format: Version of this layout.
        checksum: SHA-256 of this manifest's JSON with an empty checksum; with a key its HMAC-SHA256.
    """

    id: str
    created_us: int
    recserve: str
    key: str
    tree: list[str]
    blocks: dict[str, str]
    bytes: int
    written: int
    format: int = FORMAT
    checksum: str = ""

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.id}.json"


class Kept(NamedTuple):
    """A backup of a folder.

    Attributes:
        manifest: Its manifest, or `None` where that cannot be read.
        fault: Why it cannot be read, or empty.
    """

    id: str
    manifest: BackupManifest | None
    fault: str


def kept_backups(folder: Path) -> list[Kept]:
    """The backups of a folder, the oldest first; their checksums and blocks are not looked at."""
    entries = sorted(folder.iterdir()) if folder.is_dir() else ()
    found = []
    for path in entries:
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        try:
            found.append(Kept(match[1], _decoded(path), ""))
        except BackupError as error:
            found.append(Kept(match[1], None, str(error)))
    return found


def read_manifest(folder: Path, backup: str, sealing: Plain) -> BackupManifest:
    """The manifest of a backup, or of the newest one for an empty id.

    Raises:
        BackupError: There is none, another version or key made it, or it was changed.
    """
    there = [one.id for one in kept_backups(folder)]
    if not there:
        raise BackupError(f"no backup in {folder}; make one with: recserve backup create {folder}")
    chosen = backup or there[-1]
    if chosen not in there:
        raise BackupError(f"no backup {chosen!r} in {folder}; there are: {', '.join(there)}")
    path = folder / f"{chosen}.json"
    manifest = _decoded(path)
    if manifest.key != sealing.fingerprint:
        made, given = (f"key {key}" if key else "no key" for key in (manifest.key, sealing.fingerprint))
        raise BackupError(f"{path} was made with {made}, not with {given}; give the right one with --key-file")
    if not is_whole(manifest, sealing) or manifest.id != chosen:
        raise BackupError(f"{path} is damaged: its checksum does not fit; {_ADVICE}")
    return manifest


def is_whole(manifest: BackupManifest, sealing: Plain) -> bool:
    """Whether the manifest is as it was written, with this key."""
    return hmac.compare_digest(_checksum(manifest, sealing).encode(), manifest.checksum.encode(errors="replace"))


def write_manifest(folder: Path, manifest: BackupManifest, sealing: Plain) -> BackupManifest:
    """Write a manifest in one step, with its checksum: from then on the backup is there."""
    signed = msgspec.structs.replace(manifest, checksum=_checksum(manifest, sealing))
    write_file(folder / signed.name, msgspec.json.format(msgspec.json.encode(signed), indent=1) + b"\n", mode=0o600)
    return signed


def _checksum(manifest: BackupManifest, sealing: Plain) -> str:
    return sealing.sign(msgspec.json.encode(msgspec.structs.replace(manifest, checksum="")))


def _decoded(path: Path) -> BackupManifest:
    on_other = "use the version of recserve that made it"
    return read_json(path, BackupManifest, FORMAT, BackupError, _ADVICE, on_other=on_other)
