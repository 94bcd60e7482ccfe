"""The key file of the pseudonyms, one key a line and the oldest first, or an environment variable in its place."""

from __future__ import annotations

import os
import secrets
import stat
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import fsync_path, write_file
from recserve_server_ext.interactions.pseudonyms import Pseudonyms

#: Environment variable with the keys: at least 64 hexadecimal digits each, the oldest first, separated by blanks.
KEY_VARIABLE: Final = "RECSERVE_PSEUDONYM_KEY"
_DIGITS: Final = 64


def read_pseudonyms(path: Path, environment: Mapping[str, str] | None = None, *, make: bool = True) -> Pseudonyms:
    """Pseudonyms by the keys of the environment variable or else of the file.

    Args:
        path: Key file, at least 64 hexadecimal digits a line, with mode 0600.
        environment: Read instead of the environment of the process.
        make: Whether to make a missing file with a new key.

    Raises:
        ConfigError: A key is malformed, others can read the file, or it cannot be read or made.
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
    """The ring with a new key, which is added to the file; raises ConfigError. The caller holds the rotation's lock."""
    read_pseudonyms(path, {}, make=False)  # raises where the file is wrong
    try:
        _write(path, path.read_text("ascii").split())
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be replaced: {error}") from error
    return read_pseudonyms(path, {}, make=False)


def _make(path: Path) -> None:
    """Write a new key, unless another process is faster: then its key stays."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    _write(aside, [])
    try:
        # A link, not a rename, since it fails when the name is taken.
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
    fsync_path(path.parent)


def _write(path: Path, keys: Sequence[str]) -> None:
    """Write these keys and a new one, in one step, so that the file never holds a part of a key."""
    lines = [*keys, secrets.token_hex(_DIGITS // 2)]
    write_file(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o600)


def _ring(text: str, what: str) -> Pseudonyms:
    try:
        return Pseudonyms(*(bytes.fromhex(key) for key in text.split() or [""]))
    except ValueError:
        raise ConfigError(f"{what} is not hexadecimal; a key must have at least {_DIGITS} hexadecimal digits") from None
