"""Index build: catalogue -> vectors -> a published snapshot with an engine for each of its spaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from recserve_export.bulk_encoding.columns import Catalogue, Known, Origins, item_vectors, read_catalogue
from recserve_export.bulk_encoding.journal import VectorJournal
from recserve_export.bulk_encoding.output import EncodedVectors
from recserve_export.index.engine_build import build_engine, last_choice
from recserve_export.index.engine_choice import Settings
from recserve_export.index.logged_users import LoggedUsers
from recserve_export.index.milvus import in_milvus, write_with
from recserve_export.index.report import RecallReport, read_report
from recserve_export.index.spaces import Index, TakenOver, taken_over
from recserve_export.stages import Stage, silent
from recserve_server_ext.catalogue.own_vectors import OwnVectors
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SnapshotError, SpaceError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.encoder.item_vectors import made_with
from recserve_server_ext.encoder.manifest import read_manifest as read_encoder_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.milvus.collection import Loadable
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest
from recserve_server_ext.index.pointers import current, published_encoder
from recserve_server_ext.index.snapshot import Content, SnapshotVectors, write
from recserve_server_ext.index.snapshot_versions import newest_of
from recserve_server_ext.index.space import MILVUS, TEXT, SpaceContent
from recserve_server_ext.index.trained_versions import current_spaces

#: How often the catalogue is read again for what changed while it was encoded; later changes are served as a delta.
_ROUNDS = 3


@dataclass(frozen=True)
class Built:
    """What `build` did.

    Attributes:
        folder: The snapshot that is published now.
        is_new: Whether it was built just now, or was up to date.
        manifest: Manifest of that snapshot.
        report: How the engine of its space `text` was chosen.
        origins: Where its item vectors came from; `None` where it was up to date, or built without a store.
        refused: Why trained spaces were left out, by name.
    """

    folder: Path
    is_new: bool
    manifest: SnapshotManifest
    report: RecallReport
    origins: Origins | None = None
    refused: Mapping[str, SpaceError] = field(default_factory=dict)


@dataclass(frozen=True)
class _Wanted:
    """What an up to date snapshot was made from."""

    encoder: str
    revision: int
    source: str
    field_weights: dict[str, float]
    recall: float | None
    engine: str
    spaces: dict[str, str]
    thorough: bool


def build(
    workspace: Workspace,
    encoder_folder: Path,
    settings: Settings | None = None,
    *,
    store: str = "",
    force: bool = False,
    encoded: Path | None = None,
    milvus: MilvusSettings | None = None,
    log: LoggedUsers | None = None,
    stage: Stage = silent,
) -> Built:
    """Build and publish the index of the catalogue, unless the published one is up to date.

    Running servers change to it, and to its encoder. The next build takes over what a killed one has encoded.

    Args:
        workspace: Where the catalogue and the snapshots are.
        encoder_folder: From `choose_encoder`.
        settings: How to choose engine and parameters.
        store: URL of the catalogue store; empty takes the file in the workspace.
        force: Whether to build in any case.
        encoded: Output folder of `recserve catalogue encode` to take vectors of.
        milvus: Where Milvus is, for the engine `milvus`.
        log: Users to measure with; `None` takes made up ones.
        stage: Shows progress.

    Raises:
        ServerError: The catalogue or the encoder cannot be read, or an item has no vector.
        ExportError: `encoded` is of another encoder or other field weights, or cannot be read.
    """
    settings = settings or Settings()
    fingerprint = read_encoder_manifest(encoder_folder, verify=False).runtime_fingerprint
    with CatalogueStore(workspace.store_at(store)) as opened:
        head = opened.head()
        trained = {name: folder.name for name, folder in current_spaces(workspace.spaces).items()}
        wanted = _Wanted(
            encoder=fingerprint,
            revision=head.revision,
            source=head.identity,
            field_weights=head.field_weights,
            recall=settings.recall,
            engine=settings.engine,
            spaces=trained,
            thorough=settings.thorough,
        )
        before = None if encoded is None else EncodedVectors(encoded, fingerprint, head.field_weights)
        if not force and (done := _up_to_date(workspace.snapshots, wanted)) is not None:
            return done
        older = None if force else _reusable(workspace.snapshots, wanted)
        encoder = TextEncoder(encoder_folder, threads=settings.threads)
        journal = VectorJournal(encoder, workspace.encoding / fingerprint)
        catalogue, vectors = _encoded(opened, fingerprint, journal, older, before, stage)
        own = opened.own_vectors(list(trained))
    built = _publish(
        workspace.snapshots,
        vectors,
        catalogue.content(fingerprint, head.identity),
        settings,
        milvus=milvus,
        logged=None if log is None else log.vectors(catalogue.ids, vectors, encoder, settings.seed),
        texts=(len(catalogue.pairs.texts), encoder.truncated_texts),
        spaces=workspace.spaces,
        own=own,
        is_anew=force,
        stage=stage,
    )
    journal.forget()
    return replace(built, origins=catalogue.origins)


def build_index(
    snapshots: Path,
    vectors: Vectors,
    ids: Sequence[str],
    *,
    encoder: str,
    source: str = "",
    settings: Settings | None = None,
    logged: Vectors | None = None,
    spaces: Path | None = None,
    stage: Stage = silent,
) -> Built:
    """Publish a snapshot of vectors that are there already: no store, no encoder.

    Args:
        snapshots: Folder to publish in.
        vectors: [items, dim] unit float32.
        ids: Item id of each row, distinct.
        encoder: Runtime fingerprint of what made the vectors; serving refuses any other.
        source: Identity of the catalogue store that they are of.
        settings: How to choose engine and parameters.
        logged: [users, dim] vectors of users to choose the engine with; `None` takes made up ones.
        spaces: Folder of trained spaces to take over; `None` for none.
        stage: Shows progress.

    Raises:
        ServerError: The arguments do not fit together.
    """
    content = Content(spaces={}, ids=ids, encoder=encoder, revision=0, source=source)
    return _publish(snapshots, vectors, content, settings or Settings(), logged=logged, spaces=spaces, stage=stage)


def _publish(
    snapshots: Path,
    vectors: Vectors,
    content: Content,
    settings: Settings,
    *,
    milvus: MilvusSettings | None = None,
    logged: Vectors | None = None,
    texts: tuple[int, int] = (0, 0),
    spaces: Path | None = None,
    own: Mapping[str, OwnVectors] | None = None,
    is_anew: bool = False,
    stage: Stage = silent,
) -> Built:
    """Choose the engine of every space and publish; `content` has no spaces, `texts` are encoded and cut off.

    `own` are vectors that came with items, by space and item id. `is_anew` takes over no engine of the published
    snapshot.
    """
    elsewhere = None
    older = None if is_anew else snapshots
    if settings.engine == MILVUS:
        fields = None if content.fields is None else list(content.fields)
        items = Loadable.of_items(vectors, content.ids, fields, content.source)
        elsewhere = in_milvus(items, settings, milvus or MilvusSettings(), stage)
    is_same = published_encoder(snapshots) == content.encoder
    last = last_choice(older, TEXT, vectors.shape, settings) if older is not None and is_same else None
    engine, report = build_engine(vectors, settings, logged=logged, last=last, stage=stage, elsewhere=elsewhere)
    report = msgspec.structs.replace(report, encoded_texts=texts[0], truncated_texts=texts[1])
    text = SpaceContent(
        vectors=vectors,
        engine=engine,
        recall_target=settings.recall,
        measured_with=report.users_from,
        report=msgspec.json.encode(report),
    )
    index = Index(content.ids, vectors, content.source, content.encoder, own or {})
    taken = TakenOver({}, {}, {}, {})
    if spaces is not None:
        taken = taken_over(current_spaces(spaces), index, settings, older=older, stage=stage)
    content = replace(content, spaces={TEXT: text, **taken.spaces}, matrices=taken.matrices, models=taken.models)
    folder = write_with(engine, content.available, lambda: write(snapshots, content))
    return Built(folder, True, read_manifest(folder, verify=False), report, refused=taken.refused)


def _encoded(
    store: CatalogueStore,
    fingerprint: str,
    journal: VectorJournal,
    older: SnapshotVectors | None,
    before: EncodedVectors | None,
    stage: Stage,
) -> tuple[Catalogue, Vectors]:
    """The catalogue and its vectors; what changed while it was encoded is encoded too, a few times over."""
    what = "encode texts"
    for _ in range(_ROUNDS):
        head = store.head()
        known = Known(older, head.imported_at, before)
        catalogue = read_catalogue(store, made_with(fingerprint, head.field_weights), journal.dim, known)
        with stage(what, len(catalogue.pairs.texts)) as advance:
            vectors = item_vectors(catalogue, journal, done=advance)
        if store.revision == catalogue.revision:
            break
        what = "encode what changed meanwhile"
    return catalogue, vectors


def _up_to_date(snapshots: Path, wanted: _Wanted) -> Built | None:
    """The published snapshot, if it is whole and was made from what is wanted."""
    try:
        folder = current(snapshots)
        found, report = read_manifest(folder), read_report(folder)
    except SnapshotError:
        return None
    made_from = _Wanted(
        encoder=found.encoder,
        revision=found.revision,
        source=found.source,
        field_weights=found.field_weights,
        recall=found.text.recall_target,
        engine=report.engine,
        spaces=found.trained,
        thorough=report.thorough and wanted.thorough,
    )
    return Built(folder, False, found, report) if made_from == wanted else None


def _reusable(snapshots: Path, wanted: _Wanted) -> SnapshotVectors | None:
    """The newest snapshot of this encoder, if it is of the same store and field weights: its vectors can be taken."""
    newest = newest_of(snapshots, wanted.encoder)
    if newest is None or (newest.source, newest.field_weights) != (wanted.source, wanted.field_weights):
        return None
    try:
        return SnapshotVectors.load(snapshots / newest.id, encoder=wanted.encoder)
    except SnapshotError:
        return None
