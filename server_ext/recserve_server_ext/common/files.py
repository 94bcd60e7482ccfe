"""Atomic files and folders: written aside, fsynced, renamed; checksums, locks, and errors of reading."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

T = TypeVar("T")
#: Name of the lock file of a folder; see `exclusive`.
LOCK: Final = ".lock"


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_files(
    folder: Path, files: Mapping[str, str], error: type[Exception], advice: str, *, checksums: bool = True
) -> None:
    """Check files of a folder against their SHA-256; `error` names the first file that is missing or damaged."""
    for name, expected in files.items():
        file = folder / name
        if not file.is_file():
            raise error(f"{file} is missing; {advice}")
        if checksums and (found := sha256_of(file)) != expected:
            raise error(f"{file} is damaged: SHA-256 {found[:12]}, manifest says {expected[:12]}; {advice}")


@contextmanager
def reading(path: Path, error: type[Exception], advice: str) -> Iterator[None]:
    """Raise `error`, which names the file and says what to do, where the block cannot read or decode it."""
    try:
        yield
    except (OSError, ValueError, EOFError, RuntimeError, msgspec.MsgspecError) as cause:
        why = getattr(cause, "strerror", None) or cause  # an OSError would name the file again
        raise error(f"{path} cannot be read: {why}; {advice}") from cause


class _Format(msgspec.Struct):
    """The field that every version of a manifest has."""

    format: int


def read_json(path: Path, kind: type[T], layout: int, error: type[Exception], advice: str, *, on_other: str = "") -> T:
    """A JSON file of a layout, which its field `format` numbers.

    Args:
        path: The file.
        kind: What it is decoded as.
        layout: The layout that this version reads.
        error: Type of the error.
        advice: Says what to do about a file that cannot be read.
        on_other: Says what to do about another layout; by default the advice.

    Raises:
        Exception: `error`, which names the file: it cannot be read or decoded, or has another layout.
    """
    with reading(path, error, advice):
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found != layout:
            raise error(f"{path} has format {found}, this version reads {layout}; {on_other or advice}")
        return msgspec.json.decode(content, type=kind)


def changed_at(path: Path) -> int:
    """Time of the last change of a file in nanoseconds; 0 for a missing file."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def fsync_path(path: Path) -> None:
    """fsync a file or a folder (a folder's fsync makes the names in it durable)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_file(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file atomically: temporary file beside it, fsync, rename, fsync of the folder."""
    write_chunks(path, [content], mode=mode)


def write_json(path: Path, value: object, *, mode: int = 0o666) -> None:
    """Replace a file atomically by an indented JSON document."""
    write_file(path, msgspec.json.format(msgspec.json.encode(value)) + b"\n", mode=mode)


def write_chunks(path: Path, chunks: Iterable[bytes], *, mode: int = 0o666) -> None:
    """`write_file` for content that need not be in memory at once; when it fails the old file stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block ends well, fsynced with all its files.

    An existing `path` is moved away first and removed last. When the block fails, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    aside.mkdir()
    try:
        yield aside
        replace_folder(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def point_link(link: Path, target: Path) -> None:
    """Make a symbolic link, or replace one atomically; `target` is relative to the link's folder."""
    aside = link.with_name(f".{link.name}.{uuid.uuid4().hex}.tmp")
    aside.symlink_to(target)
    os.replace(aside, link)
    fsync_path(link.parent)


@contextmanager
def exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock file, after waiting for it; the kernel releases it when the process dies."""
    handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def change_json(path: Path, change: Callable[[], Any], error: type[Exception], *, mode: int = 0o666) -> None:
    """Replace a JSON file by what `change` makes of it, while no other process does; its folder is made.

    Raises:
        Exception: `error`, which names the file: it cannot be written. What `change` raises.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_name(f".{path.name}.lock")):
            write_json(path, change(), mode=mode)
    except OSError as cause:
        raise error(f"{path} cannot be written: {cause.strerror or cause}") from cause


def replace_folder(aside: Path, path: Path) -> None:
    """Replace `path` with a folder on the same disk, fsynced."""
    for file in sorted(aside.rglob("*")):
        fsync_path(file)
    fsync_path(aside)
    old: Path | None = None
    if path.exists():
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
        os.rename(path, old)
    os.rename(aside, path)
    fsync_path(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
