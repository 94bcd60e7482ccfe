"""Snapshots whose items are searched by Milvus: a collection is loaded before its snapshot is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recserve_export.index.engine_choice import Curve, Elsewhere, Settings, ef_curve
from recserve_export.index.recall import Users
from recserve_export.stages import Stage
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.engines.engine import Engine
from recserve_server_ext.index.engines.milvus.collection import Loadable, delete, drop_older, exists, load, publish
from recserve_server_ext.index.engines.milvus.connection import MilvusConnection
from recserve_server_ext.index.engines.milvus.engine import MilvusEngine, read_loaded
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.snapshot_versions import kept
from recserve_server_ext.index.space import MILVUS, space_folder


def in_milvus(items: Loadable, settings: Settings, milvus: MilvusSettings, stage: Stage) -> Elsewhere:
    """A function that loads a collection of items and measures it, with the last `m` of the settings."""

    def make(users: Users) -> Curve:
        with stage(f"load into Milvus, M {settings.m[-1]}", len(items.ids)) as advance:
            engine = MilvusEngine.build(
                items,
                milvus,
                m=settings.m[-1],
                ef_construction=settings.ef_construction,
                ef=settings.ef[0],
                done=advance,
            )
        return ef_curve(engine, users, settings, stage)

    return make


def again_in_milvus(items: Loadable, chosen: Mapping[str, int], milvus: MilvusSettings) -> MilvusEngine:
    """A collection with the parameters that were chosen for an older one."""
    return MilvusEngine.build(items, milvus, m=chosen["M"], ef_construction=chosen["ef_construction"], ef=chosen["ef"])


def write_with(engine: Engine, available: NDArray[np.bool_] | None, write: Callable[[], Path]) -> Path:
    """Publish a snapshot by `write`; where its engine is Milvus, the alias and the older collections follow.

    `available` [items] says which may be recommended; `None` when all may.

    Raises:
        ServerError: `write` failed, and then the collection is removed; or Milvus is away.
    """
    if not isinstance(engine, MilvusEngine):
        return write()
    try:
        if available is not None:
            engine.leave_out(np.flatnonzero(~available))
        folder = write()
    except Exception:
        engine.discard()
        raise
    publish(engine.connection, engine.collection)
    drop_older(engine.connection, _kept(folder.parent), read_manifest(folder, verify=False).source)
    return folder


def ready_in_milvus(milvus: MilvusSettings) -> Callable[[Path], None]:
    """A function that makes a snapshot on disk ready to be published again; it raises ServerError.

    The collection is made anew from the files where it is gone, and loaded where it was released; then the alias names
    it. A snapshot with another engine needs nothing.
    """

    def make(folder: Path) -> None:
        manifest = read_manifest(folder, verify=False)
        if manifest.text.engine.name != MILVUS:
            return
        connection, loaded = MilvusConnection(milvus), read_loaded(space_folder(folder))
        if not exists(connection, loaded.collection):
            snapshot = Snapshot.load(folder, verify=False)
            items = Loadable.of_fields(snapshot.text.vectors, snapshot.ids, snapshot.fields, manifest.source)
            of = manifest.text.engine.parameters
            load(connection, loaded, items, m=of["M"], ef_construction=of["ef_construction"])
            delete(connection, loaded.collection, np.flatnonzero(~snapshot.available))
        connection.call("load_collection", loaded.collection, timeout_s=milvus.load_s)
        publish(connection, loaded.collection)

    return make


def _kept(snapshots: Path) -> set[str]:
    """The collections that snapshots on disk name."""
    folders = [snapshots / found.name for found in kept(snapshots) if found.manifest is not None]
    return {
        read_loaded(space_folder(folder)).collection
        for folder in folders
        if read_manifest(folder, verify=False).text.engine.name == MILVUS
    }
