"""The catalogue that is served: notices changes when a batch starts, and new snapshots when they are published."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from recserve_server_ext.catalogue_store import CatalogueStore, Changes, ItemRow
from recserve_server_ext.catalogue_view import Delta, Vectors, View
from recserve_server_ext.engine import RemoteEngine
from recserve_server_ext.errors import CatalogueError, SnapshotError
from recserve_server_ext.item_vectors import made_with
from recserve_server_ext.snapshot import CURRENT, Snapshot, current
from recserve_server_ext.snapshot_shelf import first_usable

_log = logging.getLogger(__name__)
_REBUILD = "build it with: recserve index build"
_LEAST_ROOM = 64
#: Before a store that could not be read is asked again.
_PAUSE_S = 1.0


class LiveCatalogue:
    """Gives the newest view of a catalogue to one caller, batch by batch.

    A change that is committed before `view` is called is in what it returns. A new snapshot is loaded by a thread
    while the old one serves; the first call after that returns it. A store that cannot be read, or a snapshot that
    cannot be loaded, is logged, and what is served stays.
    """

    def __init__(
        self,
        snapshots: Path,
        load: Callable[[Path], Snapshot],
        store: Callable[[], CatalogueStore] | None,
        changed: Callable[[View], None] = lambda _: None,
    ) -> None:
        """Load what is published, and what changed since.

        Args:
            snapshots: Folder of the published snapshots.
            load: Loads one.
            store: Opens the store where changes are written; none = there are none.
            changed: Called with every new view, in `view`.

        Raises:
            SnapshotError: Nothing was published, or it cannot be loaded.
        """
        self._snapshots = snapshots
        self._load = load
        self._open = store
        self._changed = changed
        self._told: View | None = None
        self._ask_again = 0.0
        self._published = self._stamp()
        self._seen: object = None
        self._fault = ""
        self._view = View(first_usable(snapshots, load))
        self._next: Snapshot | None = None
        self._loading: threading.Thread | None = None
        self.view()

    def view(self) -> View:
        """The newest view. Not to be called by two threads at a time."""
        if self._stamp() != self._published and self._loading is None:
            self._published = self._stamp()
            self._loading = threading.Thread(target=self._load_next, name="load snapshot", daemon=True)
            self._loading.start()
        if self._loading is not None and not self._loading.is_alive():
            self._loading = None
            if self._next is not None:
                self._swap(self._next)
        if self._open is not None and time.monotonic() >= self._ask_again:
            try:
                self._follow(self._open())
            except CatalogueError as error:
                # A store that is away must not cost every batch a timeout.
                self._ask_again = time.monotonic() + _PAUSE_S
                self._complain(str(error))
        if self._told is not self._view:
            self._told = self._view
            self._changed(self._view)
        return self._view

    def _stamp(self) -> int:
        """Changes whenever `CURRENT` is replaced; 0 = there is none."""
        try:
            return (self._snapshots / CURRENT).stat().st_mtime_ns
        except OSError:
            return 0

    def _load_next(self) -> None:
        try:
            self._next = self._load(current(self._snapshots))
        except SnapshotError as error:
            self._complain(str(error))
        except Exception:
            _log.exception("the new snapshot cannot be loaded; the one before it stays")

    def _swap(self, snapshot: Snapshot) -> None:
        self._next = None
        self._seen = None
        self._view = View(snapshot)
        _log.info("serving snapshot %s, revision %d", snapshot.manifest.id, snapshot.manifest.revision)

    def _follow(self, store: CatalogueStore) -> None:
        """Put what was committed since into the view."""
        mark = store.mark()
        if mark == self._seen:
            return
        view = self._view
        manifest = view.snapshot.manifest
        changes = store.changes_since(view.revision, made_with(manifest.encoder, manifest.field_weights))
        self._seen = mark
        head = changes.head
        if manifest.source not in ("", head.identity):
            self._complain(f"{store} is not the store that snapshot {manifest.id} was made from; {_REBUILD}")
        elif head.revision < view.revision:
            self._complain(f"{store} is at revision {head.revision}, older than {view.revision}, which is served")
        elif head.imported_at > manifest.revision:
            self._complain(
                f"the catalogue was imported anew (revision {head.imported_at}); revision {view.revision} is served "
                f"until its index is published; {_REBUILD}"
            )
        else:
            self._fault = ""
            if head.revision != view.revision:
                self._view = View(view.snapshot, with_changes(view, changes))
                _forget_hidden(view, self._view)

    def _complain(self, fault: str) -> None:
        """Log a fault once."""
        if fault != self._fault:
            _log.error("%s", fault)
            self._fault = fault


def _forget_hidden(before: View, after: View) -> None:
    """Tell an engine elsewhere which rows of its snapshot are gone for good: one that is hidden never comes back."""
    engine = after.snapshot.engine
    if isinstance(engine, RemoteEngine):
        items = len(after.snapshot.ids)
        engine.forget(np.flatnonzero(before.available[:items] & ~after.available[:items]))


def with_changes(view: View, changes: Changes) -> Delta:
    """The delta of a view with more changes; the view stays as it is. Only the newest view of a snapshot may grow.

    Raises:
        CatalogueError: A changed item has no vector.
    """
    old = view.delta or Delta(view.revision, [], np.empty((0, view.dim), np.float32), 0, {}, view.available)
    count = old.count + len(changes.items)
    buffer = _with_room(old.buffer, old.count, count)
    first = len(view.snapshot.ids)
    row_of = dict(old.row_of)
    for place, change in enumerate(changes.items, start=old.count):
        buffer[place] = _vector_of(change, view, changes.head.revision)
        row_of[change.item.id] = first + place
    row_of.update(dict.fromkeys(changes.removed, -1))
    gone = [*changes.removed, *(change.item.id for change in changes.items)]
    replaced = np.array([view.row_of.get(item_id, -1) for item_id in gone], np.int64)
    added = np.array([change.item.available for change in changes.items], np.bool_)
    available = np.append(view.available, added)
    available[replaced[replaced >= 0]] = False
    # In place, as the buffer: older views read only what they had.
    old.items.extend(change.item for change in changes.items)
    return Delta(changes.head.revision, old.items, buffer, count, row_of, available)


def _vector_of(change: ItemRow, view: View, revision: int) -> Vectors:
    row = view.row_of.get(change.item.id, -1)
    if row >= 0 and change.texts_revision <= view.revision:
        vector: Vectors = view.vectors(np.array([row]))[0]
        return vector
    if change.vector is None or len(change.vector) != 4 * view.dim:
        raise CatalogueError(
            f"item {change.item.id!r} of revision {revision} has no vector of the encoder that is served; "
            "rebuild the index with: recserve index build"
        )
    return np.frombuffer(change.vector, "<f4")


def _with_room(buffer: Vectors, used: int, wanted: int) -> Vectors:
    """The buffer, or a larger copy: doubled, so that many small changes cost little."""
    if wanted <= len(buffer):
        return buffer
    larger = np.empty((max(wanted, 2 * len(buffer), _LEAST_ROOM), buffer.shape[1]), np.float32)
    larger[:used] = buffer[:used]
    return larger
