"""The spaces of a new snapshot besides `text`: trained ones taken over, each with an engine of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec
import numpy as np

from recserve_export.index.engine_build import build_engine, last_choice
from recserve_export.index.engine_choice import Settings
from recserve_export.index.own_vectors import joined
from recserve_export.stages import Stage, silent
from recserve_server_ext.catalogue.own_vectors import OwnVectors, warn_of_others
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.fields import read_table
from recserve_server_ext.index.item_ids import places_of
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.matrix import ItemMatrix, is_matrix, matrix_folder
from recserve_server_ext.index.model import Model, is_model
from recserve_server_ext.index.snapshot import IDS, load_model
from recserve_server_ext.index.space import (
    MILVUS,
    TEXT,
    VECTORS,
    EngineManifest,
    Space,
    SpaceContent,
    map_array,
    space_folder,
)
from recserve_server_ext.index.trained import TrainedMatrix, TrainedSpace, load_trained_model, trained_manifest
from recserve_server_ext.networks.canonical import check_canonical

#: The codes of `scan` are trained anew once more than this share of the items was coded since they were trained.
_ADDED: Final = 0.1
_log = logging.getLogger(__name__)
#: Vectors compared at a time.
_CHUNK: Final = 8192


class Index(NamedTuple):
    """The items that trained spaces are taken over for.

    Attributes:
        ids: Item id of each row.
        text: [rows, dim] text vectors of the items, for items that came after a training.
        source: Identity of the catalogue store.
        encoder: Runtime fingerprint of the encoder.
        own: Vectors that came with items, by space and item id.
    """

    ids: Sequence[str]
    text: Vectors
    source: str
    encoder: str
    own: Mapping[str, OwnVectors] = MappingProxyType({})

    @classmethod
    def of_snapshot(
        cls, folder: Path, manifest: SnapshotManifest, own: Mapping[str, OwnVectors] = MappingProxyType({})
    ) -> Index:
        """The items of a snapshot, whose text vectors stay in their file."""
        text = map_array(space_folder(folder) / VECTORS, (manifest.items, manifest.text.dim))
        return cls(read_table(folder / IDS)["id"].to_pylist(), text, manifest.source, manifest.encoder, own)


class TakenOver(NamedTuple):
    """Trained spaces, matrices and models over the items of an index.

    Attributes:
        spaces: Spaces by name.
        matrices: Item-to-item matrices by name.
        models: Other models by name.
        refused: Why others cannot be taken over, by name.
    """

    spaces: dict[str, SpaceContent]
    matrices: dict[str, ItemMatrix]
    models: dict[str, Model]
    refused: dict[str, SpaceError]


def taken_over(
    folders: Mapping[str, Path],
    index: Index,
    settings: Settings,
    *,
    older: Path | None = None,
    stage: Stage = silent,
) -> TakenOver:
    """Versions of trained spaces over the items of an index; one that cannot be used is refused alone.

    Args:
        folders: Folder of a version, by the name of the space.
        index: The items.
        settings: How to choose the engines; the engine `milvus` is for text only.
        older: Snapshots whose published one has engines to take over; `None` chooses all anew.
        stage: Shows progress.
    """
    found = TakenOver({}, {}, {}, {})
    if settings.engine == MILVUS:
        settings = replace(settings, engine="auto")
    row_of = {name: row for row, name in enumerate(index.ids)}
    for name, folder in folders.items():
        try:
            if is_matrix(folder):
                found.matrices[name] = _matrix(name, folder, index, row_of)
            elif is_model(folder):
                found.models[name] = _model(name, folder, index)
            else:
                found.spaces[name] = _space(name, folder, index, row_of, settings, older, stage)
        except SpaceError as error:
            found.refused[name] = error
    return found


def _matrix(name: str, folder: Path, index: Index, row_of: Mapping[str, int]) -> ItemMatrix:
    trained = TrainedMatrix.load(folder)
    trained.manifest.check_fits(name, index.source, index.encoder)
    return trained.matrix.renumbered(_rows(name, trained.ids, row_of), len(index.ids))


def _model(name: str, folder: Path, index: Index) -> Model:
    trained_manifest(folder).check_fits(name, index.source, index.encoder)
    return load_trained_model(folder)


def _space(
    name: str,
    folder: Path,
    index: Index,
    row_of: Mapping[str, int],
    settings: Settings,
    older: Path | None,
    stage: Stage,
) -> SpaceContent:
    trained = TrainedSpace.load(folder)
    trained.manifest.check_fits(name, index.source, index.encoder)
    if trained.network is not None:
        check_canonical(trained.network, folder, f"train it again on this machine: recserve train {name}")
    rows, version = _rows(name, trained.ids, row_of), trained.manifest.version
    came = index.own.get(name, {})
    warn_of_others(_log, name, trained.manifest.dim, came.values())
    known = joined(trained.vectors, rows, version, came, row_of)
    vectors, inputs, own = placed(known.vectors, trained.inputs, known.rows, index.text, trained.text_map)
    last = None if older is None else last_choice(older, name, vectors.shape, settings)
    engine, report = build_engine(vectors, settings, inputs=inputs, last=last, stage=stage)
    return SpaceContent(
        vectors=vectors,
        engine=engine,
        rows=None if len(own) == len(index.ids) else own,
        inputs=inputs,
        text_map=trained.text_map,
        learned=None if trained.text_map is None else np.isin(own, rows),
        upserted=np.isin(own, known.upserted) if len(known.upserted) else None,
        version=version,
        parameters=trained.manifest.parameters,
        network=trained.network,
        recall_target=settings.recall,
        measured_with=report.users_from,
        report=msgspec.json.encode(report),
    )


def _rows(name: str, items: Sequence[str], row_of: Mapping[str, int]) -> Rows:
    """Row of each item, -1 for those that left the catalogue; raises SpaceError where all did."""
    rows = places_of(items, row_of)
    if not (rows >= 0).any():
        raise SpaceError(f"the space {name!r} has no item of the catalogue; train it again: recserve train {name}")
    return rows


def models_of(folder: Path, manifest: SnapshotManifest) -> dict[str, Model]:
    """The models of a snapshot, which stay as they are over other items."""
    return {name: load_model(folder, name, of) for name, of in manifest.models.items()}


def compacted_matrices(folder: Path, manifest: SnapshotManifest, old_rows: Rows) -> dict[str, ItemMatrix]:
    """The item-to-item matrices of a snapshot over other items; for the arguments see `compacted_spaces`."""
    rows = np.full(manifest.items, -1, np.int64)
    rows[old_rows[old_rows >= 0]] = np.flatnonzero(old_rows >= 0)
    return {
        name: ItemMatrix.load(matrix_folder(folder, name), manifest.items, of.version).renumbered(rows, len(old_rows))
        for name, of in manifest.matrices.items()
    }


def compacted_spaces(
    folder: Path,
    manifest: SnapshotManifest,
    old_rows: Rows,
    ids: Sequence[str],
    text: Vectors,
    threads: int | None = None,
    own_vectors: Mapping[str, OwnVectors] = MappingProxyType({}),
) -> dict[str, SpaceContent]:
    """The spaces of a snapshot besides `text` over other items, each searched as it was.

    Args:
        folder: Folder of the snapshot.
        manifest: Manifest of the snapshot.
        old_rows: [rows] row in that snapshot of each item of the new one; -1 for those that it lacks.
        ids: [rows] item ids of the new snapshot.
        text: [rows, dim] text vectors of the new snapshot.
        threads: Threads of the build; `None` takes the usable cores.
        own_vectors: Vectors that came with items, by space and item id.

    Raises:
        SnapshotError: A file cannot be read.
    """
    found, row_of = {}, {item: row for row, item in enumerate(ids)} if own_vectors else {}
    for name, of in manifest.spaces.items():
        if name == TEXT:
            continue
        space = Space.load(folder, name, of, manifest.items, threads)
        places = np.where(old_rows >= 0, space.place_of[old_rows], -1)
        lasting = places >= 0 if space.upserted is None else (places >= 0) & ~space.upserted[places]
        known = np.flatnonzero(lasting)
        inputs_of_known = None if space.inputs is None else space.inputs[places[known]]
        whole = joined(space.vectors[places[known]], known, of.version, own_vectors.get(name, {}), row_of)
        vectors, inputs, own = placed(whole.vectors, inputs_of_known, whole.rows, text, space.text_map)
        if not len(own):
            continue
        engine = same_engine(vectors, of.engine, space_folder(folder, name), threads, space.vectors, places[own])
        found[name] = SpaceContent(
            vectors=vectors,
            engine=engine,
            rows=None if len(own) == len(ids) else own,
            inputs=inputs,
            text_map=space.text_map,
            learned=None if space.learned is None else np.isin(own, known[space.learned[places[known]]]),
            upserted=np.isin(own, whole.upserted) if len(whole.upserted) else None,
            version=of.version,
            parameters=of.parameters,
            network=space.network,
            recall_target=of.recall_target,
            measured_with=of.measured_with,
        )
    return found


def placed(
    vectors: Vectors, inputs: Vectors | None, rows: Rows, text: Vectors, text_map: Vectors | None
) -> tuple[Vectors, Vectors | None, Rows]:
    """The vectors and inputs of a space by rising row, and these rows: those that are known or can be mapped.

    Args:
        vectors: [known, dim] what is known.
        inputs: [known, dim] the same items as behaviours; `None` where these are the vectors.
        rows: [known] row of each; -1 for an item that is gone.
        text: [rows, text dim] text vectors of all rows.
        text_map: See `SpaceContent`.
    """
    there = rows >= 0
    joint = vectors if inputs is None else np.hstack([vectors, inputs])
    if text_map is None:
        order = np.argsort(rows[there], kind="stable")
        found, own = joint[there][order], rows[there][order]
    else:
        found, own = (text @ text_map[:-1] + text_map[-1]).astype(np.float32), np.arange(len(text))
        found[rows[there]] = joint[there]
    dim = vectors.shape[1]
    return (
        np.ascontiguousarray(found[:, :dim]),
        None if inputs is None else np.ascontiguousarray(found[:, dim:]),
        own,
    )


def same_engine(
    vectors: Vectors, chosen: EngineManifest, folder: Path, threads: int | None, old: Vectors, places: Rows
) -> Engine:
    """The engine of the space in `folder` over other vectors; an exact one where there are too few for it.

    Args:
        vectors: [vectors, dim] the other vectors.
        chosen: The engine.
        folder: Where it and its vectors are.
        threads: Threads of the build; `None` takes the usable cores.
        old: Its vectors.
        places: [vectors] place of the same item there; -1 for those that are new.
    """
    of = chosen.parameters
    if chosen.name == HnswEngine.name:
        return HnswEngine.build(vectors, m=of["M"], ef_construction=of["ef_construction"], ef=of["ef"], threads=threads)
    if chosen.name == "scan":
        # Here, since loading faiss takes a while and only this engine needs it.
        from recserve_server_ext.index.engines.scan import LEAST_ITEMS, ScanEngine
        from recserve_server_ext.index.engines.scan_fit import Fit

        if len(vectors) >= LEAST_ITEMS:
            same = _of_same_vectors(vectors, old, places)
            if of.get("added", 0) + np.count_nonzero(same < 0) <= _ADDED * len(vectors):
                return ScanEngine.taken_over(folder, vectors, of, same, threads=threads)
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


def _of_same_vectors(vectors: Vectors, old: Vectors, places: Rows) -> Rows:
    """The places [vectors] with -1 in place of those whose vector is another than in `old`."""
    same = places.copy()
    for start in range(0, len(vectors), _CHUNK):
        part = slice(start, start + _CHUNK)
        differs = (vectors[part] != old[places[part]]).any(axis=1)
        same[part][differs] = -1
    return same
