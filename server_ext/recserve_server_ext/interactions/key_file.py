"""Where the keys of the pseudonyms are: a file, a key a line with the oldest first, or an environment variable."""

from __future__ import annotations

import os
import secrets
import stat
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import fsync_path
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

#: Names the environment variable with the keys, each at least 64 hexadecimal digits, the oldest first, apart by blanks.
KEY_VARIABLE: Final = "RECSERVE_PSEUDONYM_KEY"
_DIGITS: Final = 64


def read_pseudonyms(path: Path, environment: Mapping[str, str] | None = None, *, make: bool = True) -> Pseudonyms:
    """Pseudonyms by the keys of the environment variable, or of the file.

    Args:
        path: Key file, at least 64 hexadecimal digits a line; made with mode 0600.
        environment: In place of the environment of the process.
        make: Whether the file is made, with a new key, where there is none.

    Raises:
        ConfigError: A key is not one, the file is readable by others, or cannot be read or made.
    """
    given = given_keys(environment)
    if given is not None:
        return _ring(given, f"the environment variable {KEY_VARIABLE}")
    try:
        if make and not path.exists():
            _make(path)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"the key {path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
        return _ring(path.read_text("ascii"), f"the key {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the key {path} cannot be read{' or made' if make else ''}: {error}") from error


def given_keys(environment: Mapping[str, str] | None = None) -> str | None:
    """The environment variable, or `None` where it is not set and the file counts."""
    return (os.environ if environment is None else environment).get(KEY_VARIABLE)


def add_key(path: Path) -> Pseudonyms:
    """Add a new key to the file, for a rotation that begins, and the ring with it.

    The file is replaced in one step, so that it never holds a part of a key.

    Raises:
        ConfigError: The file cannot be read or replaced.
    """
    read_pseudonyms(path, {}, make=False)  # all is well with it
    lines = path.read_text("ascii").split()
    aside = _aside(path, [*lines, secrets.token_hex(_DIGITS // 2)])
    try:
        os.replace(aside, path)
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be replaced: {error}") from error
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)
    return read_pseudonyms(path, {}, make=False)


def _ring(text: str, what: str) -> Pseudonyms:
    try:
        return Pseudonyms(*(bytes.fromhex(key) for key in text.split() or [""]))
    except ValueError:
        raise ConfigError(f"{what} is not hexadecimal; a key must have at least {_DIGITS} hexadecimal digits") from None


def _make(path: Path) -> None:
    """Write a new key, unless another process was faster: then its key stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path, [secrets.token_hex(_DIGITS // 2)])
    try:
        # A link, and not a rename, since it fails when the name is taken.
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)


def _aside(path: Path, lines: list[str]) -> Path:
    """A new file beside it that only its owner can read, fsynced."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside
