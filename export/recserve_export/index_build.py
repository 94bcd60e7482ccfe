"""Vectors -> a published snapshot whose HNSW parameters were chosen from a measured recall curve."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from recserve_export.item_vectors import Catalogue, item_vectors, read_catalogue
from recserve_export.recall import Choice, CurvePoint, Users, choose, measure, next_ef, sample_users
from recserve_server_ext import cpu
from recserve_server_ext.catalogue_store import CatalogueStore
from recserve_server_ext.durable import sha256_of
from recserve_server_ext.encoder_manifest import read_manifest as read_encoder_manifest
from recserve_server_ext.errors import SnapshotError
from recserve_server_ext.exact_engine import ExactEngine
from recserve_server_ext.hnsw_engine import HnswEngine
from recserve_server_ext.snapshot import REPORT, Content, current, write
from recserve_server_ext.snapshot_manifest import REBUILD, SnapshotManifest, read_manifest
from recserve_server_ext.text_encoder import TextEncoder
from recserve_server_ext.workspace import Workspace

Vectors = NDArray[np.float32]

#: Opens a stage of known length; inside, call what it yields with the number of things done.
Stage = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the parameters are chosen.

    Attributes:
        recall: Target of recall@10 for user vectors of both kinds.
        m: Graphs to build.
        m_if_missed: One more, where none of these reaches the target.
        ef_construction: Width of the search for neighbours in building.
        ef: Widths of search to measure on each graph, before the steps between are.
        refinements: Most widths measured between the last that misses the target and the first that reaches it.
        users: User vectors of each kind.
        seed: Of the users and of the graph.
        threads: Of building and measuring; none = the usable cores.
    """

    recall: float = 0.98
    m: tuple[int, ...] = (16, 32)
    m_if_missed: int = 48
    ef_construction: int = 200
    ef: tuple[int, ...] = (64, 128, 256, 512, 1024)
    refinements: int = 3
    users: int = 500
    seed: int = 0
    threads: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Details:
    """What a snapshot tells of its catalogue besides vectors and ids.

    Attributes:
        revision: Of the catalogue.
        source: Identity of what the catalogue was imported from.
        available: [items] whether the item may be recommended; none = all.
        fields: Fields of each item, in the order of the rows; none = no fields.
        field_weights: a_f of the text fields.
    """

    revision: int = 0
    source: str = ""
    available: NDArray[np.bool_] | None = None
    fields: Iterable[Mapping[str, Any]] | None = None
    field_weights: Mapping[str, float] = field(default_factory=dict)


class RecallReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`report.json`: the curve that the engine's parameters were chosen from.

    Attributes:
        cpu: Name of the CPU.
        cpu_flags: Those of its vector extensions that searching uses.
        threads: Of the searches.
        items: Number of items.
        dim: Length of a vector.
        k: Items searched for.
        users: User vectors of each kind.
        seed: They were drawn with.
        target: Recall wanted.
        choice: The point that was chosen.
        points: The curve.
        exact: The exact engine on the same users, in one call, to compare with.
    """

    cpu: str
    cpu_flags: list[str]
    threads: int
    items: int
    dim: int
    k: int
    users: int
    seed: int
    target: float
    choice: Choice
    points: list[CurvePoint]
    exact: CurvePoint


@dataclass(frozen=True)
class Built:
    """What `build` did.

    Attributes:
        folder: The snapshot that is published now.
        is_new: Whether it was built just now, or was up to date.
        manifest: Of that snapshot.
        report: How its parameters were chosen.
    """

    folder: Path
    is_new: bool
    manifest: SnapshotManifest
    report: RecallReport


@contextmanager
def silent(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A stage that shows nothing."""
    yield lambda count: None


def build(
    workspace: Workspace,
    encoder_folder: Path,
    settings: Settings | None = None,
    *,
    force: bool = False,
    stage: Stage = silent,
) -> Built:
    """Build and publish the index of the catalogue, unless the published one is up to date.

    Args:
        workspace: Where the catalogue and the snapshots are.
        encoder_folder: From `choose_encoder`.
        settings: How to choose parameters.
        force: Whether to build in any case.
        stage: Shows progress.

    Raises:
        ServerError: The catalogue or the encoder cannot be read, or an item has no vector.
    """
    settings = settings or Settings()
    with CatalogueStore(workspace.store) as store:
        source = _source(store)
        fingerprint = read_encoder_manifest(encoder_folder, verify=False).runtime_fingerprint
        wanted = (fingerprint, store.revision, source, store.field_weights(), settings.recall)
        if not force and (done := _up_to_date(workspace.snapshots, wanted)) is not None:
            return done
        catalogue = read_catalogue(store)
    return _publish(workspace.snapshots, catalogue, source, encoder_folder, settings, stage)


def build_index(
    snapshots: Path,
    vectors: Vectors,
    ids: Sequence[str],
    *,
    encoder: str,
    settings: Settings | None = None,
    details: Details | None = None,
    stage: Stage = silent,
) -> Built:
    """Publish a snapshot of vectors that are there already: no store, no encoder.

    Args:
        snapshots: Folder to publish in.
        vectors: [items, dim] unit float32.
        ids: Item id of each row, distinct.
        encoder: Runtime fingerprint of what made the vectors; serving refuses any other.
        settings: How to choose parameters.
        details: Of the catalogue, where there is one.
        stage: Shows progress.

    Raises:
        SnapshotError: The arguments do not fit together.
    """
    settings, details = settings or Settings(), details or Details()
    engine, report = build_engine(vectors, settings, stage=stage)
    content = Content(
        vectors=vectors,
        ids=ids,
        engine=engine,
        encoder=encoder,
        recall_target=settings.recall,
        report=msgspec.json.encode(report),
        **vars(details),
    )
    folder = write(snapshots, content)
    return Built(folder, True, read_manifest(folder, verify=False), report)


def build_engine(vectors: Vectors, settings: Settings, *, stage: Stage = silent) -> tuple[HnswEngine, RecallReport]:
    """Build graphs, measure their curves and keep the cheapest one that reaches the target.

    Args:
        vectors: [items, dim] unit float32, at least one.
        settings: How to choose.
        stage: Shows progress.
    """
    users = sample_users(vectors, count=settings.users, seed=settings.seed)
    points: list[CurvePoint] = []
    best: HnswEngine | None = None
    for m in (*settings.m, settings.m_if_missed):
        if m == settings.m_if_missed and choose(points, settings.recall).reached:
            break
        engine = _build_graph(vectors, m, settings, stage)
        points += _curve(engine, users, settings, stage)
        if points[choose(points, settings.recall).point].parameters["M"] == m:
            best = engine  # the others' memory is released
    assert best is not None
    choice = choose(points, settings.recall)
    exact = measure(ExactEngine(vectors), {}, users)
    report = _report(users, vectors, settings, best.threads, choice, points, exact)
    return best.with_ef(points[choice.point].parameters["ef"]), report


def read_report(folder: Path) -> RecallReport:
    """The report of a snapshot.

    Raises:
        SnapshotError: There is none, or it is damaged.
    """
    manifest = read_manifest(folder, verify=False)
    path = folder / REPORT
    expected = manifest.files.get(REPORT)
    if expected is None:
        raise SnapshotError(f"snapshot {folder} was made without a report; {REBUILD} --force")
    if (found := sha256_of(path)) != expected:
        raise SnapshotError(f"{path} is damaged: SHA-256 {found[:12]}, manifest says {expected[:12]}; {REBUILD}")
    try:
        return msgspec.json.decode(path.read_bytes(), type=RecallReport)
    except msgspec.MsgspecError as error:
        raise SnapshotError(f"{path} cannot be read: {error}; {REBUILD} --force") from error


def _publish(
    snapshots: Path, catalogue: Catalogue, source: str, encoder_folder: Path, settings: Settings, stage: Stage
) -> Built:
    encoder = TextEncoder(encoder_folder, threads=settings.threads)
    with stage("encode distinct texts", len(catalogue.texts)) as advance:
        vectors = item_vectors(catalogue, encoder, done=advance)
    details = Details(
        revision=catalogue.revision,
        source=source,
        available=catalogue.available,
        fields=catalogue.fields,
        field_weights=catalogue.field_weights,
    )
    return build_index(
        snapshots,
        vectors,
        catalogue.ids,
        encoder=encoder.fingerprint,
        settings=settings,
        details=details,
        stage=stage,
    )


def _up_to_date(snapshots: Path, wanted: tuple[str, int, str, dict[str, float], float]) -> Built | None:
    """The published snapshot, if it is whole and was made from what is wanted."""
    try:
        folder = current(snapshots)
        found = read_manifest(folder)
        if wanted != (found.encoder, found.revision, found.source, found.field_weights, found.recall_target):
            return None
        return Built(folder, False, found, read_report(folder))
    except SnapshotError:
        return None


def _source(store: CatalogueStore) -> str:
    """Tells two catalogues of the same revision apart, as when the store was removed and made again."""
    return hashlib.sha256(msgspec.json.encode(store.source())).hexdigest()[:16]


def _build_graph(vectors: Vectors, m: int, settings: Settings, stage: Stage) -> HnswEngine:
    with stage(f"build graph, M {m}", len(vectors)) as advance:
        return HnswEngine.build(
            vectors,
            m=m,
            ef_construction=settings.ef_construction,
            ef=settings.ef[0],
            threads=settings.threads,
            seed=settings.seed,
            done=advance,
        )


def _curve(
    engine: HnswEngine,
    users: Users,
    settings: Settings,
    stage: Stage,
) -> list[CurvePoint]:
    """The points of one graph by rising `ef`: those of the settings, and some about the target."""
    points: list[CurvePoint] = []
    with stage(f"measure recall, M {engine.parameters['M']}", len(settings.ef) + settings.refinements) as advance:
        widths = list(settings.ef)
        while widths:
            points.append(measure(engine, {**engine.parameters, "ef": widths.pop(0)}, users))
            advance(1)
            if not widths and len(points) < len(settings.ef) + settings.refinements:
                refined = next_ef(points, settings.recall)
                widths = [] if refined is None else [refined]
        advance(len(settings.ef) + settings.refinements - len(points))
    return sorted(points, key=lambda point: point.parameters["ef"])


def _report(
    users: Users,
    vectors: Vectors,
    settings: Settings,
    threads: int,
    choice: Choice,
    points: list[CurvePoint],
    exact: CurvePoint,
) -> RecallReport:
    return RecallReport(
        cpu=cpu.model_name(),
        cpu_flags=sorted(cpu.flags() & {"avx2", "avx512f", "avx512_vnni", "avx_vnni"}),
        threads=threads,
        items=len(vectors),
        dim=vectors.shape[1],
        k=users.k,
        users=settings.users,
        seed=settings.seed,
        target=settings.recall,
        choice=choice,
        points=points,
        exact=exact,
    )
