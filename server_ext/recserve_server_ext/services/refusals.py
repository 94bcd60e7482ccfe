"""The newest refusals of the models, a file for each under the folder that the server runs from.

The supervisor logs them from there, since a model has no log of events.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.files import write_file

#: Refusals that are kept of a model.
MOST: Final = 200
FOLDER: Final = "refusals"
_EVERY_S: Final = 1.0
_END_S: Final = 5.0
#: What messages quote, by `repr` or by JSON, cut or whole: it may name a user. An apostrophe follows a letter.
_QUOTED: Final = re.compile(r"""(?<!\w)b?(["']).*?(?:(?<!\\)\1(?!\w)|$)""", re.DOTALL)
#: Ids of requests that are kept, as the HTTP API takes them.
_REQUEST_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_log = logging.getLogger(__name__)


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A refused request.

    Attributes:
        time: Moment in seconds since 1970.
        model: Model that refused it.
        kind: Why it was refused.
        text: The message, without the values that it quotes.
        request_id: Id that the caller gave the request; empty without one.
    """

    time: float
    model: str
    kind: ErrorKind
    text: str
    request_id: str = ""


_decoder: Final = msgspec.json.Decoder(Refusal)


class Refusals:
    """Takes the refusals of a model from any thread, and writes the newest ones a little later."""

    def __init__(
        self, model: str, folder: Path, *, every_s: float = _EVERY_S, clock: Callable[[], float] = time.time
    ) -> None:
        """Start the thread.

        Args:
            model: Name of the model, without a fingerprint.
            folder: Folder that the server runs from.
            every_s: Time between two writes.
            clock: Seconds since 1970.
        """
        self._model, self._every_s, self._clock = model, every_s, clock
        self._path = folder / FOLDER / f"{model}.jsonl"
        self._kept: deque[tuple[float, RequestError, str]] = deque(maxlen=MOST)
        self._has_new = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="write refusals", daemon=True)
        self._thread.start()

    def add(self, error: RequestError, request_id: str) -> None:
        """Keep the refusal of a request, in place of the oldest one where there are enough."""
        self._kept.append((self._clock(), error, request_id))
        self._has_new = True

    def flush(self) -> None:
        """Write what is kept, where there is anything new; a fault is logged."""
        if not self._has_new:
            return
        self._has_new = False
        kept = [
            Refusal(moment, self._model, error.kind, _QUOTED.sub("…", error.text), _shown_id(request_id))
            for moment, error, request_id in self._kept.copy()
        ]
        try:
            write_file(self._path, b"".join(msgspec.json.encode(one) + b"\n" for one in kept), mode=0o600)
        except OSError as error:
            _log.error("refusals cannot be written to %s: %s", self._path, error.strerror or error)

    def close(self) -> None:
        """Write what is kept, and end the thread."""
        self._end.set()
        self._thread.join(_END_S)

    def _run(self) -> None:
        while not self._end.wait(self._every_s):
            self.flush()
        self.flush()


def newest_refusals(run: Path, count: int) -> list[Refusal]:
    """The newest refusals of all models of the servers of a home, the newest first.

    Args:
        run: Folder of the running servers of the home.
        count: Most refusals.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is damaged.
    """
    return _newest((one for path in run.glob(f"*/{FOLDER}/*.jsonl") for one in _read(path)), count)


class RefusalFollower:
    """Follows the refusals of one server."""

    def __init__(self, folder: Path) -> None:
        """Follow what the models of the server that runs from a folder refuse from now on."""
        self._folder = folder / FOLDER
        self._start = time.time()
        self._seen: dict[Path, tuple[int, float]] = {}

    def new(self, count: int) -> list[Refusal]:
        """The newest refusals since the last call, at most `count`, the newest first.

        Raises:
            OSError: A file cannot be read.
            ValueError: A file is damaged.
        """
        found: list[Refusal] = []
        for path in self._folder.glob("*.jsonl"):
            changed, until = self._seen.get(path, (0, self._start))
            if (now := path.stat().st_mtime_ns) != changed:
                new = [one for one in _read(path) if one.time > until]
                self._seen[path] = (now, max((one.time for one in new), default=until))
                found += new
        return _newest(found, count)


def _shown_id(request_id: str) -> str:
    return request_id if _REQUEST_ID.fullmatch(request_id) else ""


def _read(path: Path) -> list[Refusal]:
    return [_decoder.decode(line) for line in path.read_bytes().splitlines()]


def _newest(refusals: Iterable[Refusal], count: int) -> list[Refusal]:
    return sorted(refusals, key=lambda one: one.time, reverse=True)[:count]
