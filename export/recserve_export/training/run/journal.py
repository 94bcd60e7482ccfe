"""What an unfinished `recserve train` has done, so that the next one goes on there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from recserve_server_ext.common.files import exclusive, write_file
from recserve_server_ext.interactions.store import InteractionStore

_FILE: Final = "TRAINING.json"
_LOCK: Final = ".training.lock"


class State(msgspec.Struct, kw_only=True):
    """Content of the file.

    Attributes:
        key: What was asked for.
        number: Number of the last interaction that is read; `None` before it is known.
        revision: Revision of the store then.
        finished: Version of each training that is published.
    """

    key: str
    number: int | None = None
    revision: int = 0
    finished: dict[str, str] = {}


class Journal:
    """The state of one command, written whenever a training is published."""

    def __init__(self, path: Path, state: State) -> None:
        self._path = path
        self._state = state

    @classmethod
    @contextmanager
    def of(cls, spaces: Path, key: str) -> Iterator[Journal]:
        """The journal of a command; other commands wait until it ends.

        Args:
            spaces: Folder of all trained spaces.
            key: What is asked for: only the same command goes on.
        """
        spaces.mkdir(parents=True, exist_ok=True)
        with exclusive(spaces / _LOCK):
            found = read_state(spaces)
            yield cls(spaces / _FILE, found if found is not None and found.key == key else State(key=key))

    @property
    def number(self) -> int | None:
        """Number of the last interaction to read; `None` for all."""
        return self._state.number

    @property
    def finished(self) -> dict[str, str]:
        """Version of each training that is published."""
        return self._state.finished

    def check(self, store: InteractionStore, spaces: Path) -> None:
        """Begin anew where users were erased since, or what was published is gone."""
        state = self._state
        is_there = all((spaces / name / version).is_dir() for name, version in state.finished.items())
        erased = state.number is not None and store.erasures_seen(state.number, state.revision)
        if not is_there or erased or store.revision < state.revision:
            self._state = State(key=state.key)

    def begin(self, number: int, revision: int) -> None:
        """Note what was read."""
        if self._state.number is None:
            self._state.number, self._state.revision = number, revision
            self._write()

    def finish(self, name: str, version: str) -> None:
        """Note that a training is published."""
        self._state.finished[name] = version
        self._write()

    def forget(self) -> None:
        """Note that everything is done."""
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        write_file(self._path, msgspec.json.encode(self._state))


def read_state(spaces: Path) -> State | None:
    """What the last command has done; `None` where nothing was begun, or nothing of it can be used."""
    try:
        return msgspec.json.decode((spaces / _FILE).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None
