"""The spaces of a new snapshot besides `text`: trained ones taken over, each with an engine of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from recserve_export.index.engine_choice import Settings, build_engine
from recserve_export.stages import Stage, silent
from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.common.errors import SnapshotError
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.index.engines.hnsw import HnswEngine
from recserve_server_ext.index.manifest import SnapshotManifest
from recserve_server_ext.index.matrix import ItemMatrix, is_matrix, matrix_folder
from recserve_server_ext.index.space import MILVUS, TEXT, EngineManifest, Space, SpaceContent, space_folder
from recserve_server_ext.index.trained import TrainedMatrix, TrainedSpace, current_spaces


def trained_spaces(
    spaces: Path, ids: Sequence[str], text: Vectors, settings: Settings, *, stage: Stage = silent
) -> dict[str, SpaceContent]:
    """The current version of every trained space over the items of a catalogue.

    Args:
        spaces: Folder of all trained spaces.
        ids: Item id of each row of the catalogue.
        text: [rows, dim] text vectors of the items, for items that came after a training.
        settings: How to choose the engines; the engine `milvus` is for text only.
        stage: Shows progress.

    Raises:
        SnapshotError: A space is damaged.
    """
    found = {}
    if settings.engine == MILVUS:
        settings = replace(settings, engine="auto")
    row_of = {name: row for row, name in enumerate(ids)}
    for name, folder in current_spaces(spaces).items():
        if is_matrix(folder):
            continue
        trained = TrainedSpace.load(folder)
        rows = np.array([row_of.get(item, -1) for item in trained.ids], np.int64)
        vectors, inputs, own = placed(trained.vectors, trained.inputs, rows, text, trained.text_map)
        if not len(own):
            raise SnapshotError(f"space {name!r} has no vector for any item of the catalogue; train it again")
        engine, report = build_engine(vectors, settings, inputs=inputs, stage=stage)
        found[name] = SpaceContent(
            vectors=vectors,
            engine=engine,
            rows=None if len(own) == len(ids) else own,
            inputs=inputs,
            text_map=trained.text_map,
            version=trained.manifest.version,
            parameters=trained.manifest.parameters,
            network=trained.network,
            recall_target=settings.recall,
            measured_with=report.users_from,
            report=msgspec.json.encode(report),
        )
    return found


def trained_matrices(spaces: Path, ids: Sequence[str]) -> dict[str, ItemMatrix]:
    """The current version of every trained item-to-item matrix over the items of a catalogue.

    Args:
        spaces: Folder of all trained spaces and matrices.
        ids: Item id of each row of the catalogue.

    Raises:
        SnapshotError: A matrix is damaged.
    """
    row_of = {name: row for row, name in enumerate(ids)}
    found = {}
    for name, folder in current_spaces(spaces).items():
        if is_matrix(folder):
            trained = TrainedMatrix.load(folder)
            rows = np.array([row_of.get(item, -1) for item in trained.ids], np.int64)
            found[name] = trained.matrix.renumbered(rows, len(ids))
    return found


def compacted_matrices(
    folder: Path, manifest: SnapshotManifest, row_of_old: Mapping[str, int], ids: Sequence[str]
) -> dict[str, ItemMatrix]:
    """The item-to-item matrices of a snapshot over other items; for the arguments see `compacted_spaces`."""
    rows = np.full(manifest.items, -1, np.int64)
    old_rows = np.array([row_of_old.get(item, -1) for item in ids], np.int64)
    rows[old_rows[old_rows >= 0]] = np.flatnonzero(old_rows >= 0)
    return {
        name: ItemMatrix.load(matrix_folder(folder, name), manifest.items, of.version).renumbered(rows, len(ids))
        for name, of in manifest.matrices.items()
    }


def compacted_spaces(
    folder: Path,
    manifest: SnapshotManifest,
    row_of_old: Mapping[str, int],
    ids: Sequence[str],
    text: Vectors,
    threads: int | None = None,
) -> dict[str, SpaceContent]:
    """The spaces of a snapshot besides `text` over other items, each searched as it was.

    Args:
        folder: Folder of the snapshot.
        manifest: Manifest of the snapshot.
        row_of_old: Row in that snapshot of each item id.
        ids: Item id of each row of the new snapshot.
        text: [rows, dim] text vectors of the new snapshot.
        threads: Threads of the build; `None` takes the usable cores.

    Raises:
        SnapshotError: A file cannot be read.
    """
    found = {}
    for name, of in manifest.spaces.items():
        if name == TEXT:
            continue
        space = Space.load(folder, name, of, manifest.items, threads)
        old_rows = np.array([row_of_old.get(item, -1) for item in ids], np.int64)
        places = np.where(old_rows >= 0, space.place_of[old_rows], -1)
        known = np.flatnonzero(places >= 0)
        inputs_of_known = None if space.inputs is None else space.inputs[places[known]]
        vectors, inputs, own = placed(space.vectors[places[known]], inputs_of_known, known, text, space.text_map)
        if not len(own):
            continue
        found[name] = SpaceContent(
            vectors=vectors,
            engine=same_engine(vectors, of.engine, space_folder(folder, name), threads),
            rows=None if len(own) == len(ids) else own,
            inputs=inputs,
            text_map=space.text_map,
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


def same_engine(vectors: Vectors, chosen: EngineManifest, folder: Path, threads: int | None) -> Engine:
    """The engine of the space in `folder` over other vectors; an exact one where there are too few for it."""
    of = chosen.parameters
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
