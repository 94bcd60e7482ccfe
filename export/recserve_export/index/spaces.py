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
from recserve_server_ext.index.space import MILVUS, TEXT, EngineManifest, Space, SpaceContent, space_folder
from recserve_server_ext.index.trained import TrainedSpace, current_spaces


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
        trained = TrainedSpace.load(folder)
        rows = np.array([row_of.get(item, -1) for item in trained.ids], np.int64)
        vectors, own = placed(trained.vectors, rows, text, trained.text_map)
        if not len(own):
            raise SnapshotError(f"space {name!r} has no vector for any item of the catalogue; train it again")
        engine, report = build_engine(vectors, settings, stage=stage)
        found[name] = SpaceContent(
            vectors=vectors,
            engine=engine,
            rows=None if len(own) == len(ids) else own,
            text_map=trained.text_map,
            version=trained.manifest.version,
            recall_target=settings.recall,
            measured_with=report.users_from,
            report=msgspec.json.encode(report),
        )
    return found


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
        vectors, own = placed(space.vectors[places[known]], known, text, space.text_map)
        if not len(own):
            continue
        found[name] = SpaceContent(
            vectors=vectors,
            engine=same_engine(vectors, of.engine, space_folder(folder, name), threads),
            rows=None if len(own) == len(ids) else own,
            text_map=space.text_map,
            version=of.version,
            recall_target=of.recall_target,
            measured_with=of.measured_with,
        )
    return found


def placed(vectors: Vectors, rows: Rows, text: Vectors, text_map: Vectors | None) -> tuple[Vectors, Rows]:
    """The vectors of a space by rising row, and these rows: those that are known, and those that can be mapped.

    Args:
        vectors: [known, dim] what is known.
        rows: [known] row of each; -1 for an item that is gone.
        text: [rows, text dim] text vectors of all rows.
        text_map: See `SpaceContent`.
    """
    there = rows >= 0
    if text_map is None:
        order = np.argsort(rows[there], kind="stable")
        return np.ascontiguousarray(vectors[there][order]), rows[there][order]
    mapped: Vectors = (text @ text_map[:-1] + text_map[-1]).astype(np.float32)
    mapped[rows[there]] = vectors[there]
    return mapped, np.arange(len(text))


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
