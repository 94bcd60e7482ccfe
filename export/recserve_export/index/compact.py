"""Compaction: a new snapshot with the changes since the published one, by the engine that was chosen for that."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from recserve_export.bulk_encoding.columns import Known, item_vectors, read_catalogue
from recserve_export.index.milvus import again_in_milvus, write_with
from recserve_export.index.spaces import compacted_matrices, compacted_spaces, models_of, same_engine
from recserve_server_ext.catalogue.changes import forget_before
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.encoder.item_vectors import made_with
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.milvus.collection import Loadable
from recserve_server_ext.index.item_ids import places_of
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import SnapshotVectors, write
from recserve_server_ext.index.snapshot_versions import kept
from recserve_server_ext.index.space import MILVUS, REPORT, TEXT, SpaceContent, space_folder


def compact(
    store: CatalogueStore,
    snapshots: Path,
    encoder_folder: Path,
    threads: int | None = None,
    milvus: MilvusSettings | None = None,
) -> SnapshotManifest | None:
    """Publish a snapshot of the catalogue as it is now; servers change to it without a pause.

    Every vector that is there already is taken over: from the published snapshot, or as it was stored with the change.
    So are the codes of `scan`. Returns what was published, or `None` where nothing has changed. `encoder_folder` made
    the published snapshot.

    Raises:
        ServerError: The published snapshot is of another catalogue or encoder, or something cannot be read or written.
    """
    with _without_collections():
        return _compacted(store, snapshots, TextEncoder(encoder_folder, threads=threads), threads, milvus)


def _compacted(
    store: CatalogueStore,
    snapshots: Path,
    encoder: TextEncoder,
    threads: int | None,
    milvus: MilvusSettings | None,
) -> SnapshotManifest | None:
    old = SnapshotVectors.load(current(snapshots), encoder=encoder.fingerprint)
    head = store.head()
    if old.manifest.source != head.identity or old.manifest.field_weights != head.field_weights:
        raise SnapshotError(f"snapshot {old.manifest.id} was made from another catalogue than {store}; {REBUILD}")
    if old.manifest.revision == head.revision:
        return None
    known = Known(old, head.imported_at)
    catalogue = read_catalogue(store, made_with(encoder.fingerprint, head.field_weights), encoder.dim, known)
    vectors = item_vectors(catalogue, encoder)
    of, was = snapshots / old.manifest.id, old.manifest.text
    old_rows = places_of(catalogue.ids, old.row_of)
    engine: Engine
    if was.engine.name == MILVUS:
        items = Loadable.of_items(vectors, catalogue.ids, catalogue.fields, head.identity)
        engine = again_in_milvus(items, was.engine.parameters, milvus or MilvusSettings())
    else:
        engine = same_engine(vectors, was.engine, space_folder(of), threads, old.vectors, old_rows)
    report = space_folder(of) / REPORT
    text = SpaceContent(
        vectors=vectors,
        engine=engine,
        recall_target=was.recall_target,
        measured_with=was.measured_with,
        report=report.read_bytes() if report.is_file() else None,
    )
    came = store.own_vectors(list(old.manifest.spaces))
    spaces = compacted_spaces(of, old.manifest, old_rows, catalogue.ids, vectors, threads, came)
    content = catalogue.content(encoder.fingerprint, head.identity, {TEXT: text, **spaces})
    matrices = compacted_matrices(of, old.manifest, old_rows)
    content = replace(content, matrices=matrices, models=models_of(of, old.manifest))
    # Not over what another encoder was activated with meanwhile.
    folder = write_with(engine, catalogue.available, lambda: write(snapshots, content, over=old.manifest.id))
    # The oldest one that may still be published again needs what changed since.
    oldest = min(found.manifest.revision for found in kept(snapshots) if found.manifest is not None)
    forget_before(store, oldest)
    return read_manifest(folder, verify=False)


@contextmanager
def _without_collections() -> Iterator[None]:
    """Leave Python's collector off: it would look for cycles among millions of items again and again, without any."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
