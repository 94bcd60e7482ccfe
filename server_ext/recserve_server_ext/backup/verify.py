"""Checks a backup: its manifest, every block, and that the tree names nothing else. Removes old backups."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec

from recserve_server_ext.backup.blocks import Blocks
from recserve_server_ext.backup.create import explained
from recserve_server_ext.backup.manifest import BackupManifest, Tree, kept_backups, read_manifest
from recserve_server_ext.backup.sealing import Plain
from recserve_server_ext.common.errors import BackupError
from recserve_server_ext.common.files import LOCK, exclusive, fsync_path


def verify(
    folder: Path, backup: str, sealing: Plain, on_progress: Callable[[int], None] = lambda size: None
) -> tuple[BackupManifest, Tree]:
    """Read every block of a backup, or of the newest one for an empty id.

    Args:
        on_progress: Called with numbers of bytes that are done.

    Raises:
        BackupError: There is no such backup, another version or key made it, or a part is missing or damaged.
    """
    manifest = read_manifest(folder, backup, sealing)
    tree = read_tree(folder, manifest, sealing)
    blocks = Blocks(folder, sealing)
    named = {name for file in tree.files for name in file.blocks}
    for name in sorted(named | set(manifest.blocks)):
        on_progress(len(blocks.get(name, manifest.blocks.get(name))))
    return manifest, tree


def read_tree(folder: Path, manifest: BackupManifest, sealing: Plain) -> Tree:
    """The tree of a backup; raises BackupError where it is damaged, or leads out of the home."""
    blocks = Blocks(folder, sealing)
    content = b"".join(blocks.get(name, manifest.blocks.get(name)) for name in manifest.tree)
    try:
        tree = msgspec.json.decode(content, type=Tree)
    except msgspec.MsgspecError as error:
        raise BackupError(f"the tree of {folder / manifest.name} is damaged: {error}") from error
    paths = [PurePosixPath(file.path) for file in tree.files]
    for link in tree.links:
        paths += [PurePosixPath(link.path), PurePosixPath(link.path).parent / link.target]
    # A link may go up and down again within the home.
    if any(path.is_absolute() or _leaves(path) for path in paths):
        raise BackupError(f"the tree of {folder / manifest.name} leads out of the home; it was not made by recserve")
    return tree


def prune(folder: Path, keep: int) -> tuple[list[str], int]:
    """Remove all backups but the newest ones, and blocks that no backup names; which went, and how many bytes.

    Raises:
        BackupError: A manifest that stays is damaged: then it is unknown which blocks it needs.
    """
    with explained(folder), exclusive(folder / LOCK):
        there = kept_backups(folder)
        gone, left = there[: max(0, len(there) - keep)], there[max(0, len(there) - keep) :]
        if damaged := [one.fault for one in left if one.fault]:
            raise BackupError(damaged[0])
        for one in gone:
            (folder / f"{one.id}.json").unlink()
        for unfinished in folder.glob(".*.tmp"):
            unfinished.unlink()
        fsync_path(folder)  # no manifest may come back after its blocks went
        keep_blocks = {name for one in left if one.manifest is not None for name in one.manifest.blocks}
        return [one.id for one in gone], Blocks(folder, Plain()).remove_others(keep_blocks)


def _leaves(path: PurePosixPath) -> bool:
    depth = 0
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
