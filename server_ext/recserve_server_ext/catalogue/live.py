"""The served catalogue: it notices changes when a batch starts, and new snapshots when they are published."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from recserve_client.contract import ErrorKind, RequestError
from recserve_server_ext.batching.batcher import Encode
from recserve_server_ext.catalogue.delta import with_changes
from recserve_server_ext.catalogue.store import CatalogueStore, opener
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import CatalogueError, ModelNotLoadedError, SnapshotError
from recserve_server_ext.common.files import changed_at
from recserve_server_ext.config.server import ModelSettings
from recserve_server_ext.encoder.item_vectors import made_with
from recserve_server_ext.encoder.loaded import ServedEncoders
from recserve_server_ext.index.engines.engine import RemoteEngine
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import CURRENT, current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.snapshot_versions import first_usable
from recserve_server_ext.networks.loaded import ServedNetworks

_log = logging.getLogger(__name__)
_REBUILD = "build it with: recserve index build"
#: Pause before a store that could not be read is asked again.
_PAUSE_S = 1.0
#: Time between two looks for a new snapshot; a look at the file system costs as much as a request.
_LOOK_S = 0.02


class _UnfitError(Exception):
    """The snapshot was made from another catalogue than the store holds."""


def _no_encoder(texts: Sequence[str], encoder: str) -> Vectors:
    raise RequestError(
        ErrorKind.UNAVAILABLE,
        f"items changed that have no vector of encoder {encoder}; rebuild the index with: recserve index build",
    )


def open_live(
    settings: ModelSettings,
    encoders: ServedEncoders,
    networks: ServedNetworks,
    passages: Encode,
    show: Callable[[View], None],
) -> LiveCatalogue:
    """The live catalogue of a server, which also tells the other processes which encoder and networks are served.

    Args:
        settings: Settings of the models.
        encoders: The loaded encoders.
        networks: The loaded networks.
        passages: Encodes texts of items.
        show: Called with every new view.

    Raises:
        SnapshotError: No snapshot was published, or it cannot be loaded.
    """

    def load(folder: Path, verify_vectors: bool = True) -> Snapshot:
        manifest = read_manifest(folder, verify=False)
        encoders.require(manifest.encoder)
        networks.require(manifest.networks)
        threads, milvus = settings.serve.threads or None, settings.serve.milvus
        return Snapshot.load(folder, threads=threads, verify_vectors=verify_vectors, milvus=milvus)

    def changed(view: View) -> None:
        show(view)
        encoders.serve(view.encoder)
        networks.serve(view.snapshot.manifest.networks)

    def loadable() -> int:
        return encoders.stamp() + networks.stamp()

    store = opener(settings.store) if settings.store else None
    first = partial(load, verify_vectors=False)
    return LiveCatalogue(
        Path(settings.snapshots), load, store, changed, first=first, encode=passages, loadable=loadable
    )


class LiveCatalogue:
    """Gives the newest view of a catalogue to one caller, batch by batch.

    A change that is committed before `view` is called is in the returned view. A thread loads a new snapshot while the
    old one serves. It also reads what changed since, and encodes it where the new snapshot has another encoder; the
    next call returns both. A store that cannot be read, or a snapshot that cannot be loaded, is logged, and the served
    view stays.
    """

    def __init__(
        self,
        snapshots: Path,
        load: Callable[[Path], Snapshot],
        store: Callable[[], CatalogueStore] | None,
        changed: Callable[[View], None] = lambda _: None,
        *,
        first: Callable[[Path], Snapshot] | None = None,
        encode: Encode = _no_encoder,
        loadable: Callable[[], int] = lambda: 0,
    ) -> None:
        """Load the published snapshot and what changed since.

        Args:
            load: Loads a snapshot after verifying every file.
            store: Opens the store of changes; `None` for a catalogue that does not change.
            changed: Called with every new view, in `view`.
            first: Loads the first snapshot, where verifying all of it would take long; from the first call of `view` on
                a thread verifies it while it serves.
            encode: Encodes the texts of items; called in `view` and by the thread that loads.
            loadable: A number that changes when a snapshot that could not be loaded may be loadable.

        Raises:
            SnapshotError: No snapshot was published, or it cannot be loaded.
        """
        self._snapshots = snapshots
        self._current = snapshots / CURRENT
        self._load = load
        self._open = store
        self._changed = changed
        self._encode = encode
        self._loadable = loadable
        self._told: View | None = None
        self._is_new = True
        self._ask_again = self._look_at = 0.0
        self._published = self._stamp()
        self._seen: object = None
        self._fault = ""
        self._view = View(first_usable(snapshots, first or load))
        self._next: View | None = None
        self._loading: threading.Thread | None = None
        self._damage = ""
        self.is_verified = first is None
        self._is_due = False
        self.view()
        self._is_new = False
        # Not yet: a start would share its cores with that.
        self._is_due = first is not None

    def view(self) -> View:
        """The newest view. Not to be called by two threads at a time.

        Raises:
            RequestError: unavailable: the first snapshot is damaged, and there is no other yet.
        """
        if self._loading is not None and not self._loading.is_alive():
            self._loading = None
        now = time.monotonic()
        if self._loading is None and now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._look()
        following = self._next if self._next is not None and self._loading is None else self._view
        if self._damage and following is self._view:
            raise RequestError(ErrorKind.UNAVAILABLE, self._damage)
        if self._open is None:
            self._swap(following)
        elif now >= self._ask_again:
            self._follow(following)
        if self._told is not self._view:
            self._told = self._view
            self._changed(self._view)
        if self._is_due and self._loading is None:
            self._is_due = False
            self._begin(self._verify_first)
        return self._view

    def _look(self) -> None:
        """Begin to load the snapshot that was published since."""
        if (stamp := self._stamp()) != self._published:
            self._published = stamp
            self._begin(self._load_next)

    def _begin(self, load: Callable[[], None]) -> None:
        self._loading = threading.Thread(target=load, name="load snapshot", daemon=True)
        self._loading.start()

    def _verify_first(self) -> None:
        """Verify the snapshot that serves; the newest good one takes its place where it is damaged."""
        served = self._view.snapshot.manifest.id

        def sound(folder: Path) -> Snapshot | None:
            if folder.name != served:
                return self._load(folder)
            read_manifest(folder)
            return None

        try:
            found = first_usable(self._snapshots, sound)
        except SnapshotError as error:
            self._damage = f"snapshot {served} is damaged, and no other can be served"
            _log.error("%s; no other snapshot can be used, and requests are refused", error)
            return
        if found is None:
            self.is_verified = True
        else:
            self._next = View(found)

    def lag(self) -> int:
        """Number of changes in the store that the last view lacks; any thread may ask. Raises CatalogueError."""
        served = self._view.revision
        return 0 if self._open is None else max(0, self._open().revision - served)

    @property
    def forgetting(self) -> int:
        """Number of rows that a remote engine has yet to delete; any thread may ask."""
        engine = self._view.snapshot.text.engine
        return engine.forgetting if isinstance(engine, RemoteEngine) else 0

    def _stamp(self) -> tuple[int, int]:
        """A pair that changes when `CURRENT` is replaced or more can be loaded."""
        return changed_at(self._current), self._loadable()

    def _load_next(self) -> None:
        ready, self._next = self._next, None
        try:
            folder = current(self._snapshots)
            if folder.name == self._view.snapshot.manifest.id:
                return
            if ready is not None and folder.name == ready.snapshot.manifest.id:
                self._next = ready
                return
            view = View(self._load(folder))
            if self._open is not None:
                try:
                    view = self._grown(view, self._open())
                except (_UnfitError, CatalogueError, RequestError):
                    _log.warning("what changed since snapshot %s is added when it is served", folder.name)
            self._next = view
        except ModelNotLoadedError as error:
            _log.info("snapshot %s waits: %s", folder.name, error)
        except SnapshotError as error:
            self._complain(str(error))
        except Exception:
            _log.exception("the new snapshot cannot be loaded; the one before it stays")

    def _swap(self, view: View) -> None:
        if view.snapshot is not self._view.snapshot:
            manifest = view.snapshot.manifest
            _log.info("serving snapshot %s, revision %d", manifest.id, manifest.revision)
            self._next, self._damage, self.is_verified = None, "", True
        self._view = view

    def _follow(self, view: View) -> None:
        """Serve the present view or the next one, with what was committed since."""
        is_next = view is not self._view
        try:
            assert self._open is not None
            store = self._open()
            mark = store.mark()
            if mark == self._seen and not is_next:
                return
            try:
                view = self._grown(view, store)
                self._fault = ""
            except _UnfitError as error:
                self._complain(str(error))
            self._seen = mark
        except (CatalogueError, RequestError) as error:
            # An unreachable store must not cost every batch a timeout. A model that is being loaded cannot ask the
            # encoder yet; with its first batch it can.
            is_too_early = self._is_new and isinstance(error, RequestError)
            self._ask_again = 0.0 if is_too_early else time.monotonic() + _PAUSE_S
            self._complain(str(error))
            if is_next and self.is_verified and view.revision < self._view.revision:
                return
            self._seen = None
        self._swap(view)

    def _grown(self, view: View, store: CatalogueStore) -> View:
        """A view with what was committed since.

        Raises:
            _UnfitError: The store holds another catalogue.
            CatalogueError: The store cannot be read.
            RequestError: unavailable: an item has to be encoded, and the encoder does not answer.
        """
        manifest = view.snapshot.manifest
        changes = store.changes_since(view.revision, made_with(manifest.encoder, manifest.field_weights))
        head = changes.head
        if manifest.source not in ("", head.identity):
            raise _UnfitError(f"{store} is not the store that snapshot {manifest.id} was made from; {_REBUILD}")
        if head.revision < view.revision:
            raise _UnfitError(f"{store} is at revision {head.revision}, older than {view.revision}, which is served")
        if head.imported_at > manifest.revision:
            raise _UnfitError(
                f"the catalogue was imported anew (revision {head.imported_at}); revision {view.revision} is served "
                f"until its index is published; {_REBUILD}"
            )
        if head.revision == view.revision:
            return view
        grown = View(view.snapshot, with_changes(view, changes, self._encode))
        _forget_hidden(view, grown)
        return grown

    def _complain(self, fault: str) -> None:
        """Log a fault once."""
        if fault != self._fault:
            _log.error("%s", fault)
            self._fault = fault


def _forget_hidden(before: View, after: View) -> None:
    """Tell a remote engine which rows of its snapshot are gone for good: a hidden row never comes back."""
    engine = after.snapshot.text.engine
    if isinstance(engine, RemoteEngine):
        items = len(after.snapshot.ids)
        engine.forget(np.flatnonzero(before.available[:items] & ~after.available[:items]))
