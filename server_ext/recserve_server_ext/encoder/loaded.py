"""The loaded encoders of a running server and the served one: two small files in the folder it runs from.

The supervisor writes the table of loaded encoders. `recommend` alone decides which of them is served: the encoder of
the snapshot it answers from. It writes that to `serving`, and the other models follow with their next batch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import ModelNotLoadedError
from recserve_server_ext.common.files import changed_at, write_file
from recserve_server_ext.encoder.manifest import EncoderManifest

TABLE = "encoders.json"
SERVING = "serving"
_log = logging.getLogger(__name__)


class LoadedEncoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An encoder with a set of models on Triton.

    Attributes:
        fingerprint: Runtime fingerprint, with the arithmetic of this CPU where it matters.
        batch: Most texts of a request.
    """

    fingerprint: str
    folder: str
    manifest: EncoderManifest
    batch: int


def write_table(folder: Path, encoders: Sequence[LoadedEncoder]) -> None:
    """Write the table of loaded encoders; the first is served until `recommend` writes another."""
    write_file(folder / TABLE, msgspec.json.encode(list(encoders)))


def loaded(folder: Path) -> list[str]:
    """Runtime fingerprints of the encoders in the table of a folder; empty without a table."""
    try:
        return [one.fingerprint for one in _read_table(folder)]
    except (OSError, msgspec.MsgspecError):
        return []


def read_serving(folder: Path) -> str:
    """Runtime fingerprint of the encoder that `recommend` answers with; empty before it has written one."""
    try:
        return (folder / SERVING).read_text(encoding="utf-8")
    except OSError:
        return ""


#: Texts -> vectors by one encoder.
EncodeTexts = Callable[[Sequence[str]], Vectors]


class ServedEncoders:
    """Encodes with any of the encoders that are loaded; one object for each model and role of texts."""

    def __init__(self, folder: Path, make: Callable[[LoadedEncoder], EncodeTexts]) -> None:
        self._folder = folder
        self._make = make
        self._made: dict[str, EncodeTexts] = {}
        self._table: dict[str, LoadedEncoder] = {}
        self._read_at = -1
        self._serving_at = -1
        self._serving = ""
        self._lock = threading.Lock()

    def __call__(self, texts: Sequence[str], fingerprint: str) -> Vectors:
        """Unit vectors [texts, dim]; from any thread. Raises RequestError(unavailable)."""
        with self._lock:
            encode = self._made.get(fingerprint)
            if encode is None:
                encode = self._made[fingerprint] = self._make(self._loaded(fingerprint))
        return encode(texts)

    def stamp(self) -> int:
        """A number that changes with the table."""
        return changed_at(self._folder / TABLE)

    def require(self, fingerprint: str) -> None:
        """Raise ModelNotLoadedError unless an encoder is loaded."""
        with self._lock:
            if fingerprint not in self._refreshed():
                raise ModelNotLoadedError(f"encoder {fingerprint} is not loaded")

    def serving(self) -> str:
        """Runtime fingerprint of the encoder that is served now. Not to be called by two threads at a time."""
        stamp = changed_at(self._folder / SERVING)
        if stamp != self._serving_at or not self._serving:
            self._serving_at = stamp
            with self._lock:
                table = self._refreshed()
                found = read_serving(self._folder)
                self._serving = found if found in table else next(iter(table))
                # Kept while loaded: answers under way may still need an encoder that is no longer served.
                self._made = {name: encode for name, encode in self._made.items() if name in table}
        return self._serving

    def serve(self, fingerprint: str) -> None:
        """Write that an encoder is served now; only `recommend` calls it."""
        if read_serving(self._folder) == fingerprint:
            return
        try:
            write_file(self._folder / SERVING, fingerprint.encode())
        except OSError:
            _log.exception("%s cannot be written: other models stay with the encoder before", self._folder / SERVING)

    def _loaded(self, fingerprint: str) -> LoadedEncoder:
        found = self._refreshed().get(fingerprint)
        if found is None:
            raise RequestError(ErrorKind.UNAVAILABLE, f"the encoder {fingerprint} is not loaded; try again")
        return found

    def _refreshed(self) -> dict[str, LoadedEncoder]:
        if (stamp := self.stamp()) != self._read_at:
            self._table = {one.fingerprint: one for one in _read_table(self._folder)}
            self._read_at = stamp
        return self._table


def _read_table(folder: Path) -> list[LoadedEncoder]:
    return msgspec.json.decode((folder / TABLE).read_bytes(), type=list[LoadedEncoder])
