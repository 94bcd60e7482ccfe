"""A new snapshot with the changes since the published one, by the engine and parameters that were chosen for that."""

from __future__ import annotations

from pathlib import Path

from recserve_export.bulk_encoding.columns import Known, item_vectors, read_catalogue
from recserve_export.index.milvus import again_in_milvus, write_with
from recserve_server_ext.catalogue.changes import forget_before
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.encoder.item_vectors import made_with
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.engine import BuiltEngine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.engines.milvus.collection import Loadable
from recserve_server_ext.index.manifest import EngineManifest, SnapshotManifest, read_manifest
from recserve_server_ext.index.snapshot import MILVUS, REPORT, Content, SnapshotVectors, current, write
from recserve_server_ext.index.snapshots import kept


def compact(
    store: CatalogueStore,
    snapshots: Path,
    encoder_folder: Path,
    threads: int | None = None,
    milvus: MilvusSettings | None = None,
) -> SnapshotManifest | None:
    """Publish a snapshot of the catalogue as it is now; servers change to it without a pause.

    Every vector that is there already is taken over: from the published snapshot, or as it was stored with the change.

    Args:
        store: Of the catalogue.
        snapshots: Where to publish.
        encoder_folder: What made the published snapshot.
        threads: Of the build; none = the usable cores.
        milvus: Where Milvus is, for a catalogue that is searched there.

    Returns:
        What was published; none = nothing has changed.

    Raises:
        ServerError: The published snapshot is of another catalogue or encoder, or something cannot be read or written.
    """
    encoder = TextEncoder(encoder_folder, threads=threads)
    old = SnapshotVectors.load(current(snapshots), encoder=encoder.fingerprint)
    head = store.head()
    if old.manifest.source != head.identity or old.manifest.field_weights != head.field_weights:
        raise SnapshotError(f"snapshot {old.manifest.id} was made from another catalogue than {store}; {REBUILD}")
    if old.manifest.revision == head.revision:
        return None
    catalogue = read_catalogue(
        store, made_with(encoder.fingerprint, head.field_weights), encoder.dim, Known(old, head.imported_at)
    )
    vectors = item_vectors(catalogue, encoder)
    items = Loadable.of_items(vectors, catalogue.ids, catalogue.fields, head.identity)
    engine = _engine(items, old.manifest.engine, snapshots / old.manifest.id, threads, milvus or MilvusSettings())
    content = Content(
        vectors=vectors,
        ids=catalogue.ids,
        engine=engine,
        encoder=encoder.fingerprint,
        revision=catalogue.revision,
        source=head.identity,
        available=catalogue.available,
        fields=catalogue.fields,
        field_weights=catalogue.field_weights,
        recall_target=old.manifest.recall_target,
        measured_with=old.manifest.measured_with,
        report=_report(snapshots / old.manifest.id / REPORT),
    )
    # Not over what another encoder was activated with meanwhile.
    folder = write_with(engine, catalogue.available, lambda: write(snapshots, content, over=old.manifest.id))
    # The oldest one that may still be published again needs what changed since.
    oldest = min(found.manifest.revision for found in kept(snapshots) if found.manifest is not None)
    forget_before(store, oldest)
    return read_manifest(folder, verify=False)


def _report(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _engine(
    items: Loadable, chosen: EngineManifest, folder: Path, threads: int | None, milvus: MilvusSettings
) -> BuiltEngine:
    """The engine of the published snapshot `folder` over other items; an exact one where there are too few for it."""
    of, vectors = chosen.parameters, items.vectors
    if chosen.name == MILVUS:
        return again_in_milvus(items, of, milvus)
    if chosen.name == HnswEngine.name:
        return HnswEngine.build(vectors, m=of["M"], ef_construction=of["ef_construction"], ef=of["ef"], threads=threads)
    if chosen.name == "scan":
        # Here, since loading faiss takes a while and only this engine needs it.
        from recserve_server_ext.index.engines.scan import LEAST_ITEMS, ScanEngine
        from recserve_server_ext.index.engines.scan_fit import Fit

        if len(vectors) >= LEAST_ITEMS:
            return ScanEngine.build(
                vectors,
                Fit.load(folder, vectors.shape[1]),
                lists=of["lists"],
                codes=of["codes"],
                nprobe=of["nprobe"],
                rescored=of["rescored"],
                threads=threads,
            )
    return ExactEngine(vectors)
