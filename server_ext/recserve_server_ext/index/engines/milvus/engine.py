"""The `milvus` engine: the vectors of a snapshot in a collection of Milvus, which also evaluates filters.

The item vectors stay here too. Items that Milvus finds are scored again from them, so scores are the exact cosines.
What it does not find is searched here, since k items must come back whenever k match.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from recserve_client.contract import ErrorKind, RequestError
from recserve_client.contract.filters import Filter
from recserve_server_ext.common.arrays import Rows, Scores, Vectors
from recserve_server_ext.common.errors import REBUILD, MilvusError, SnapshotError
from recserve_server_ext.common.files import reading
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.engine import RemoteEngine, most_banned, no_results, without_banned
from recserve_server_ext.index.engines.milvus.collection import (
    VECTOR,
    Loadable,
    Loaded,
    delete,
    drop,
    load,
    new_collection,
)
from recserve_server_ext.index.engines.milvus.connection import MilvusConnection
from recserve_server_ext.index.engines.milvus.filter import AttributeKeys, check_translatable

FILE = "milvus.json"
#: Most items that Milvus gives for a query, and its widest search.
_MOST_ITEMS, _MOST_EF = 16_384, 32_768
#: Candidates scored at once (48 MiB of vectors of 384 dimensions), unless one user has more.
_AT_ONCE = 1 << 15
#: Rows of a delete, its deadline, and the pause after a failed one.
_DELETED, _DELETE_S, _PAUSE_S = 5000, 10.0, 5.0

_log = logging.getLogger(__name__)


class MilvusEngine(RemoteEngine):
    """Searches the collection of one snapshot. Loading does not ask Milvus, which may be away when a server starts."""

    name = "milvus"

    def __init__(
        self,
        connection: MilvusConnection,
        loaded: Loaded,
        vectors: Vectors,
        parameters: Mapping[str, int],
        deadline_s: float,
    ) -> None:
        """See `build` and `load`; `deadline_s` is that of a search."""
        self._deadline_s = deadline_s
        self.parameters = dict(parameters)
        self.collection = loaded.collection
        self.connection = connection
        self._loaded = loaded
        self._keys = AttributeKeys(loaded.attributes)
        self._vectors = vectors
        self._forgotten = _Forgotten(connection, loaded.collection)

    @classmethod
    def build(
        cls,
        items: Loadable,
        settings: MilvusSettings,
        *,
        m: int,
        ef_construction: int,
        ef: int,
        done: Callable[[int], None] = lambda _: None,
    ) -> MilvusEngine:
        """Load items into a new collection; for the arguments and errors see `collection.load`."""
        connection = MilvusConnection(settings)
        loaded = new_collection(items)
        load(connection, loaded, items, m=m, ef_construction=ef_construction, done=done)
        parameters = {"M": m, "ef_construction": ef_construction, "ef": ef}
        # The deadline of loading: measurements search for more users at a time than are ever served.
        return cls(connection, loaded, items.vectors, parameters, settings.load_s)

    @classmethod
    def load(
        cls, folder: Path, vectors: Vectors, parameters: Mapping[str, int], settings: MilvusSettings
    ) -> MilvusEngine:
        """The engine of a snapshot, whose collection `save` named; raises SnapshotError."""
        return cls(MilvusConnection(settings), read_loaded(folder), vectors, parameters, settings.search_s)

    def save(self, folder: Path) -> None:
        """Write the name of the collection."""
        (folder / FILE).write_bytes(msgspec.json.encode(self._loaded))

    def with_parameters(self, parameters: Mapping[str, int]) -> MilvusEngine:
        """The same collection with another `ef`."""
        chosen = {**self.parameters, "ef": parameters["ef"]}
        return MilvusEngine(self.connection, self._loaded, self._vectors, chosen, self._deadline_s)

    def leave_out(self, rows: Rows) -> None:
        """Delete rows that must not be found, before the first search; raises MilvusError."""
        delete(self.connection, self.collection, rows)

    def discard(self) -> None:
        """Remove the collection, which no snapshot names."""
        drop(self.connection, self.collection)

    def check(self, where: Filter) -> None:
        """See `RemoteEngine.check`: distances, long texts and numbers beyond 2^53 are refused."""
        check_translatable(where)

    def search(
        self,
        queries: Vectors,
        k: int,
        *,
        ef: int | None = None,
        banned: Sequence[Rows] = (),
        where: Filter | None = None,
    ) -> tuple[Rows, Scores]:
        """See `RemoteEngine.search`; at most 16,384 items are found for a query, banned ones among them."""
        if len(banned):
            rows, scores = self.search(queries, k + most_banned(banned), ef=ef, where=where)
            return without_banned(rows, scores, banned, len(self._vectors), k)
        rows, scores = no_results(len(queries), k)
        wanted = min(k, len(self._vectors), _MOST_ITEMS)
        if not len(queries) or not wanted:
            return rows, scores
        width = min(_MOST_EF, max(wanted, self.parameters["ef"] if ef is None else ef))
        found = self._ask(queries, wanted, width, "" if where is None else self._keys.expression(where))
        for line, hits in zip(rows, found, strict=True):
            line[: len(hits.ids)] = hits.ids
        # The exact cosines, equal on every replica.
        step = max(1, _AT_ONCE // wanted)
        for start in range(0, len(queries), step):
            part = slice(start, start + step), slice(wanted)
            exact = np.einsum("nkd,nd->nk", self._vectors[rows[part]], queries[part[0]])
            scores[part] = np.where(rows[part] >= 0, exact, -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        self._forgotten.send()
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)

    def _ask(self, queries: Vectors, k: int, ef: int, expression: str) -> list[Any]:
        try:
            found: list[Any] = self.connection.ask(
                "search",
                self.collection,
                list(queries),
                anns_field=VECTOR,
                filter=expression,
                limit=k,
                search_params={"metric_type": "IP", "params": {"ef": ef}},
                consistency_level=self.connection.settings.consistency,
                timeout_s=self._deadline_s,
            )
        except MilvusError as error:
            # The log has the reason, which may name addresses.
            raise RequestError(
                ErrorKind.UNAVAILABLE, "Milvus, which searches this catalogue, is away; try again"
            ) from error
        return found

    def forget(self, rows: Rows) -> None:
        """See `RemoteEngine.forget`: the rows are deleted from the collection in the background."""
        self._forgotten.add(rows)
        self._forgotten.send()

    @property
    def forgetting(self) -> int:
        """See `RemoteEngine.forgetting`."""
        return self._forgotten.waiting

    def wait(self) -> None:
        """Wait until the background has nothing to do for now."""
        self._forgotten.wait()


class _Forgotten:
    """Rows to delete from a collection; a failed delete is tried again after the next search that worked."""

    def __init__(self, connection: MilvusConnection, collection: str) -> None:
        self._connection = connection
        self._collection = collection
        self._rows: set[int] = set()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="forget")  # started by the first delete
        self._running = False
        self._not_before = 0.0

    @property
    def waiting(self) -> int:
        return len(self._rows)

    def add(self, rows: Rows) -> None:
        with self._lock:
            self._rows.update(rows.tolist())

    def send(self) -> None:
        with self._lock:
            if self._running or not self._rows or time.monotonic() < self._not_before:
                return
            self._running = True
        self._thread.submit(self._delete)

    def wait(self) -> None:
        self._thread.submit(int).result()

    def _delete(self) -> None:
        try:
            while part := self._part():
                # Not `ask`: searches must not be refused because deletes fail.
                self._connection.call("delete", self._collection, ids=part, timeout_s=_DELETE_S)
                with self._lock:
                    self._rows.difference_update(part)
        except MilvusError as error:
            self._not_before = time.monotonic() + _PAUSE_S
            _log.warning("%s; %d rows will be deleted later", error, len(self._rows))
        except Exception:
            self._not_before = time.monotonic() + _PAUSE_S
            _log.exception("rows cannot be deleted from Milvus; they are left out of slates all the same")
        finally:
            with self._lock:
                self._running = False

    def _part(self) -> list[int]:
        with self._lock:
            return sorted(self._rows)[:_DELETED]


def read_loaded(folder: Path) -> Loaded:
    """What a snapshot keeps of its collection; raises SnapshotError."""
    path = folder / FILE
    with reading(path, SnapshotError, REBUILD):
        return msgspec.json.decode(path.read_bytes(), type=Loaded)
