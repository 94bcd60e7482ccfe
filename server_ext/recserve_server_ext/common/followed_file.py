"""A file that is read again when it was replaced."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

from recserve_server_ext.common.errors import ConfigError

#: Time between two looks at the file.
_LOOK_S: Final = 1.0
T = TypeVar("T")
_log = logging.getLogger(__name__)


class FollowedFile(Generic[T]):
    """What a file holds. Not thread-safe."""

    def __init__(self, path: Path, read: Callable[[Path], T]) -> None:
        """
        Args:
            path: The file, which may not be there yet.
            read: Reads it; raises ConfigError where it cannot be used.

        Raises:
            ConfigError: The file cannot be used.
        """
        self._path, self._read = path, read
        self._seen = self._stamp()
        self._content = read(path)
        self._look_at = 0.0

    def content(self) -> T:
        """What the file holds; the same object while the file is the same.

        It is looked for once a second. A file that cannot be used is logged, and what it held before stays.
        """
        now = time.monotonic()
        if now < self._look_at:
            return self._content
        self._look_at = now + _LOOK_S
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._content = self._read(self._path)
            except ConfigError as error:
                _log.error("what the file held before stays: %s", error)
        return self._content

    def _stamp(self) -> tuple[int, int, int]:
        """Changes whenever the file is replaced; zeros without a file."""
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0, 0
        return found.st_ino, found.st_mtime_ns, found.st_size
