"""Vectors -> a published snapshot whose engine and parameters were chosen by measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_export.bulk_encoding.columns import Catalogue, Known, item_vectors, read_catalogue
from recserve_export.bulk_encoding.journal import VectorJournal
from recserve_export.bulk_encoding.output import EncodedVectors
from recserve_export.index.engine_choice import EngineName, RecallReport, Settings, Stage, build_engine, silent
from recserve_export.index.logged_users import logged_users
from recserve_export.index.milvus import in_milvus, write_with
from recserve_export.index.spaces import trained_spaces
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import REBUILD, SnapshotError
from recserve_server_ext.common.files import sha256_of
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.encoder.item_vectors import made_with
from recserve_server_ext.encoder.manifest import read_manifest as read_encoder_manifest
from recserve_server_ext.encoder.text_encoder import TextEncoder
from recserve_server_ext.index.engines.milvus.collection import Loadable
from recserve_server_ext.index.manifest import SnapshotManifest, read_manifest
from recserve_server_ext.index.snapshot import Content, SnapshotVectors, current, write
from recserve_server_ext.index.snapshots import newest_of
from recserve_server_ext.index.space import MILVUS, REPORT, TEXT, SpaceContent, space_folder
from recserve_server_ext.index.trained import current_spaces
from recserve_server_ext.interactions.store import InteractionStore

#: How often the catalogue is read again for what changed while it was encoded; later changes are served as a delta.
_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Details:
    """What a snapshot tells of its catalogue besides vectors and ids.

    Attributes:
        revision: Of the catalogue.
        source: Identity of the catalogue store.
        available: [items] whether the item may be recommended; none = all.
        fields: Fields of each item, in the order of the rows; none = no fields.
        field_weights: a_f of the text fields.
    """

    revision: int = 0
    source: str = ""
    available: NDArray[np.bool_] | None = None
    fields: Sequence[Mapping[str, Any]] | None = None
    field_weights: Mapping[str, float] = field(default_factory=dict)


class EncodedTexts(NamedTuple):
    """Distinct texts that were encoded for an index, and how many of them were cut off."""

    encoded: int
    truncated: int


class LoggedUsers(NamedTuple):
    """Users of the log to measure engines with.

    Attributes:
        where: The interaction store, a file or a URL.
        rules: How interactions become weights.
    """

    where: Path | str
    rules: HistoryRules

    def vectors(self, ids: Sequence[str], vectors: Vectors, encoder: TextEncoder, seed: int) -> Vectors | None:
        """Their vectors, see `logged_users`; none = there are too few, or no store.

        Raises:
            ServerError: The store cannot be read, or the rules need statistics and have none.
        """
        if isinstance(self.where, Path) and not self.where.exists():
            return None
        row_of = {name: row for row, name in enumerate(ids)}
        with InteractionStore(self.where, InteractionLimits()) as store:
            return logged_users(store, self.rules, row_of, vectors, partial(encoder.encode, role="query"), seed=seed)


class Origins(NamedTuple):
    """Where the item vectors of an index came from, in items.

    Attributes:
        known: An older snapshot, or the store, where they were written with the items.
        taken: The vectors that were encoded before.
        encoded: Made for this index.
    """

    known: int
    taken: int
    encoded: int


@dataclass(frozen=True)
class Built:
    """What `build` did.

    Attributes:
        folder: The snapshot that is published now.
        is_new: Whether it was built just now, or was up to date.
        manifest: Of that snapshot.
        report: How its engine was chosen.
        origins: Of its vectors; none = it was up to date, or built from vectors without a store.
    """

    folder: Path
    is_new: bool
    manifest: SnapshotManifest
    report: RecallReport
    origins: Origins | None = None


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

    Running servers change to it, and to its encoder. What a build that is killed has encoded is there for the next.

    Args:
        workspace: Where the catalogue and the snapshots are.
        encoder_folder: From `choose_encoder`.
        settings: How to choose engine and parameters.
        store: URL of the catalogue store; empty = the file in the workspace.
        force: Whether to build in any case.
        encoded: Output folder of `recserve catalogue encode`, whose vectors are taken; none = all are encoded here.
        milvus: Where Milvus is, for the engine `milvus`.
        log: Users to measure with; none = made up ones.
        stage: Shows progress.

    Raises:
        ServerError: The catalogue or the encoder cannot be read, or an item has no vector.
        ExportError: `encoded` is of another encoder or other field weights, or cannot be read.
    """
    settings = settings or Settings()
    fingerprint = read_encoder_manifest(encoder_folder, verify=False).runtime_fingerprint
    with CatalogueStore(workspace.store_at(store)) as opened:
        head = opened.head()
        wanted = (fingerprint, head.revision, head.identity, head.field_weights, settings.recall, settings.engine)
        before = None if encoded is None else EncodedVectors(encoded, fingerprint, head.field_weights)
        trained = {name: folder.name for name, folder in current_spaces(workspace.spaces).items()}
        if not force and (done := _up_to_date(workspace.snapshots, wanted, trained)) is not None:
            return done
        older = None if force else _reusable(workspace.snapshots, wanted)
        encoder = TextEncoder(encoder_folder, threads=settings.threads)
        journal = VectorJournal(encoder, workspace.encoding / fingerprint)
        catalogue, vectors = _encoded(opened, fingerprint, journal, older, before, stage)
    texts = EncodedTexts(len(catalogue.pairs.texts), encoder.truncated_texts)
    logged = None if log is None else log.vectors(catalogue.ids, vectors, encoder, settings.seed)
    built = build_index(
        workspace.snapshots,
        vectors,
        catalogue.ids,
        encoder=fingerprint,
        settings=settings,
        details=_details(catalogue, head.identity),
        milvus=milvus,
        logged=logged,
        texts=texts,
        spaces=workspace.spaces,
        stage=stage,
    )
    journal.forget()
    return replace(built, origins=_origins(catalogue))


def build_index(
    snapshots: Path,
    vectors: Vectors,
    ids: Sequence[str],
    *,
    encoder: str,
    settings: Settings | None = None,
    details: Details | None = None,
    milvus: MilvusSettings | None = None,
    logged: Vectors | None = None,
    texts: EncodedTexts | None = None,
    spaces: Path | None = None,
    stage: Stage = silent,
) -> Built:
    """Publish a snapshot of vectors that are there already: no store, no encoder.

    Args:
        snapshots: Folder to publish in.
        vectors: [items, dim] unit float32.
        ids: Item id of each row, distinct.
        encoder: Runtime fingerprint of what made the vectors; serving refuses any other.
        settings: How to choose engine and parameters.
        details: Of the catalogue, where there is one.
        milvus: Where Milvus is, for the engine `milvus`.
        logged: [users, dim] vectors of users to choose the engine with; none = made up ones.
        texts: What was encoded, for the report.
        spaces: Folder of the trained spaces to take over; `None` takes none.
        stage: Shows progress.

    Raises:
        ServerError: The arguments do not fit together, or Milvus is away.
    """
    settings, details = settings or Settings(), details or Details()
    elsewhere = None
    if settings.engine == MILVUS:
        items = Loadable.of_items(vectors, ids, details.fields, details.source)
        elsewhere = in_milvus(items, settings, milvus or MilvusSettings(), stage)
    engine, report = build_engine(vectors, settings, logged=logged, stage=stage, elsewhere=elsewhere)
    if texts is not None:
        report = msgspec.structs.replace(report, encoded_texts=texts.encoded, truncated_texts=texts.truncated)
    text = SpaceContent(
        vectors=vectors,
        engine=engine,
        recall_target=settings.recall,
        measured_with=report.users_from,
        report=msgspec.json.encode(report),
    )
    trained = {} if spaces is None else trained_spaces(spaces, ids, vectors, settings, stage=stage)
    content = Content(spaces={TEXT: text, **trained}, ids=ids, encoder=encoder, **vars(details))
    folder = write_with(engine, details.available, lambda: write(snapshots, content))
    return Built(folder, True, read_manifest(folder, verify=False), report)


def read_report(folder: Path, space: str = TEXT) -> RecallReport:
    """The report of a space of a snapshot.

    Raises:
        SnapshotError: There is none, or it is damaged.
    """
    manifest = read_manifest(folder, verify=False)
    if space not in manifest.spaces:
        raise SnapshotError(f"snapshot {folder} has no space {space!r}; it has: {', '.join(manifest.spaces)}")
    path = space_folder(folder, space) / REPORT
    expected = manifest.files.get(path.relative_to(folder).as_posix())
    if expected is None:
        raise SnapshotError(f"snapshot {folder} was made without a report; {REBUILD} --force")
    if (found := sha256_of(path)) != expected:
        raise SnapshotError(f"{path} is damaged: SHA-256 {found[:12]}, manifest says {expected[:12]}; {REBUILD}")
    try:
        return msgspec.json.decode(path.read_bytes(), type=RecallReport)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"{path} cannot be read: {error}; {REBUILD} --force") from error


def _encoded(
    store: CatalogueStore,
    fingerprint: str,
    journal: VectorJournal,
    older: SnapshotVectors | None,
    before: EncodedVectors | None,
    stage: Stage,
) -> tuple[Catalogue, Vectors]:
    """The catalogue and its vectors; what changed while it was encoded is encoded too, a few times over."""
    what = "encode distinct texts"
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


def _origins(catalogue: Catalogue) -> Origins:
    taken = 0 if catalogue.taken is None else len(catalogue.taken.rows)
    return Origins(len(catalogue.known), taken, len(catalogue.unknown))


def _details(catalogue: Catalogue, source: str) -> Details:
    return Details(
        revision=catalogue.revision,
        source=source,
        available=catalogue.available,
        fields=catalogue.fields,
        field_weights=catalogue.field_weights,
    )


def _up_to_date(
    snapshots: Path, wanted: tuple[str, int, str, dict[str, float], float, EngineName], trained: dict[str, str]
) -> Built | None:
    """The published snapshot, if it is whole and was made from what is wanted."""
    try:
        folder = current(snapshots)
        found, report = read_manifest(folder), read_report(folder)
        made_from = (found.encoder, found.revision, found.source, found.field_weights, found.text.recall_target)
        versions = {name: of.version for name, of in found.spaces.items() if name != TEXT}
        is_same = wanted == (*made_from, report.engine) and versions == trained
        return Built(folder, False, found, report) if is_same else None
    except SnapshotError:
        return None


def _reusable(
    snapshots: Path, wanted: tuple[str, int, str, dict[str, float], float, EngineName]
) -> SnapshotVectors | None:
    """The newest snapshot of this encoder, if it is of the same store and field weights: its vectors can be taken."""
    encoder, _, source, field_weights, _, _ = wanted
    newest = newest_of(snapshots, encoder)
    if newest is None:
        return None
    try:
        found = SnapshotVectors.load(snapshots / newest.id, encoder=encoder)
    except SnapshotError:
        return None
    return found if (found.manifest.source, found.manifest.field_weights) == (source, field_weights) else None
