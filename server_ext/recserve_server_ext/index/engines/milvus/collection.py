"""Collections of Milvus: one for each snapshot, loaded once, and an alias that names the published one."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import numpy as np

from recserve_server_ext.common.arrays import Rows, Vectors
from recserve_server_ext.common.errors import MilvusError
from recserve_server_ext.index.engines.milvus.connection import MilvusConnection
from recserve_server_ext.index.engines.milvus.filter import ATTRIBUTES, ROW, AttributeKeys
from recserve_server_ext.index.fields import ItemFields

#: Names the published collection, for other readers of Milvus.
ALIAS: Final = "recserve"
VECTOR: Final = "vector"
ID: Final = "id"
_NAME = re.compile(rf"{ALIAS}_(\d{{20}})_[0-9a-f]{{8}}")
#: Rows of one insert or delete, about 8 MiB with short attributes; Milvus takes 64 MiB at a time.
_CHUNK = 2000
#: Most bytes of a JSON value and of an id in Milvus.
_JSON_BYTES, _ID_BYTES = 65_536, 65_535
_POLL_S = 0.05


@dataclass(frozen=True, eq=False)
class Loadable:
    """Items of a snapshot to load.

    Attributes:
        vectors: [items, dim] unit float32.
        take: Gives the fields of rows [n]; missing ones may be left out or `None`.
    """

    vectors: Vectors
    ids: Sequence[str]
    names: Sequence[str]
    take: Callable[[Rows], Sequence[Mapping[str, Any]]]
    source: str = ""

    @classmethod
    def of_items(
        cls, vectors: Vectors, ids: Sequence[str], fields: Sequence[Mapping[str, Any]] | None, source: str
    ) -> Loadable:
        """Items that are in no snapshot yet."""
        found = [{}] * len(ids) if fields is None else fields
        names = tuple(dict.fromkeys(name for item in found for name in item))
        return cls(vectors, ids, names, lambda rows: [found[row] for row in rows.tolist()], source)

    @classmethod
    def of_fields(cls, vectors: Vectors, ids: Sequence[str], fields: ItemFields, source: str) -> Loadable:
        """Items of a snapshot on disk."""
        return cls(vectors, ids, fields.names, lambda rows: fields.take(fields.names, rows), source)


class Loaded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a snapshot keeps of its collection, in `milvus.json`: its name, and its fields in the order of keys."""

    collection: str
    attributes: list[str]


def new_collection(items: Loadable) -> Loaded:
    """A new name for a collection; names sort by the moment they were made."""
    return Loaded(f"{ALIAS}_{datetime.now(UTC):%Y%m%d%H%M%S%f}_{uuid.uuid4().hex[:8]}", list(items.names))


def load(
    connection: MilvusConnection,
    loaded: Loaded,
    items: Loadable,
    *,
    m: int,
    ef_construction: int,
    done: Callable[[int], None] = lambda _: None,
) -> None:
    """Make a collection of items: on disk, indexed and in memory when this returns. A failed one is removed.

    Args:
        m: Neighbours of an item in the graph.
        ef_construction: Width of the search for them.
        done: Called with the number of items of every chunk.

    Raises:
        MilvusError: Milvus is away or refused, an item is too large for it, or items did not arrive.
        ConfigError: The settings have no uri, or pymilvus is not installed.
    """
    name = loaded.collection
    try:
        _create(connection, name, items)
        _insert(connection, loaded, items, done)
        _index(connection, name, m, ef_construction)
        connection.call("load_collection", name)
        _check_count(connection, name, len(items.ids))
    except MilvusError:
        drop(connection, name)
        raise


def exists(connection: MilvusConnection, name: str) -> bool:
    """Whether a collection exists; raises MilvusError."""
    return bool(connection.call("has_collection", name))


def delete(connection: MilvusConnection, name: str, rows: Rows) -> None:
    """Delete rows from a collection; raises MilvusError."""
    for start in range(0, len(rows), _CHUNK):
        connection.call("delete", name, ids=rows[start : start + _CHUNK].tolist())


def publish(connection: MilvusConnection, name: str) -> None:
    """Make the alias name this collection; raises MilvusError."""
    try:
        connection.call("alter_alias", name, ALIAS)
    except MilvusError:
        # There is no alias yet.
        connection.call("create_alias", name, ALIAS)


def drop(connection: MilvusConnection, name: str) -> None:
    """Remove a collection if it exists and Milvus answers; otherwise a later `drop_older` removes it."""
    try:
        connection.call("drop_collection", name)
    except MilvusError:
        return


def drop_older(connection: MilvusConnection, kept: Collection[str], source: str) -> list[str]:
    """Remove the collections of a catalogue that are older than all kept ones; the removed names.

    Args:
        kept: Names of the kept collections, at least one.
        source: Identity of the catalogue store; collections of other stores stay.

    Raises:
        MilvusError: Milvus is away or refused.
    """
    oldest = min(kept)
    older = [name for name in connection.call("list_collections") if name < oldest and _NAME.fullmatch(name)]
    removed = [name for name in older if _source_of(connection, name) == source]
    for name in removed:
        drop(connection, name)
    return removed


def _create(connection: MilvusConnection, name: str, items: Loadable) -> None:
    connection.check()
    from pymilvus import DataType, MilvusClient

    description = msgspec.json.encode({"source": items.source, "items": len(items.ids)}).decode()
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field(ROW, DataType.INT64, is_primary=True)
    schema.add_field(ID, DataType.VARCHAR, max_length=_ID_BYTES)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=items.vectors.shape[1])
    schema.add_field(ATTRIBUTES, DataType.JSON)
    connection.call("create_collection", name, schema=schema, consistency_level=connection.settings.consistency)


def _insert(connection: MilvusConnection, loaded: Loaded, items: Loadable, done: Callable[[int], None]) -> None:
    keys = AttributeKeys(loaded.attributes)
    for start in range(0, len(items.ids), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(items.ids)))
        data = []
        for row, fields in zip(chunk.tolist(), items.take(chunk), strict=True):
            item, values = items.ids[row], keys.stored(fields)
            if (size := len(msgspec.json.encode(values))) > _JSON_BYTES:
                raise MilvusError(
                    f"the fields of item {item[:64]!r} have {size:,} bytes, Milvus takes {_JSON_BYTES:,} of an item"
                )
            data.append({ROW: row, ID: item, VECTOR: items.vectors[row], ATTRIBUTES: values})
        connection.call("insert", loaded.collection, data)
        done(len(chunk))
    connection.call("flush", loaded.collection)


def _index(connection: MilvusConnection, name: str, m: int, ef_construction: int) -> None:
    from pymilvus import MilvusClient

    params = MilvusClient.prepare_index_params()
    graph = {"M": m, "efConstruction": ef_construction}
    params.add_index(VECTOR, index_type="HNSW", metric_type="IP", index_name=VECTOR, params=graph)
    connection.call("create_index", name, params)
    load_s = connection.settings.load_s
    deadline = time.monotonic() + load_s
    # A collection that is loaded before its index is done is searched without it for a while.
    while (state := connection.call("describe_index", name, VECTOR))["pending_index_rows"]:
        if time.monotonic() > deadline:
            raise MilvusError(f"the index of {name} was not done within {load_s:g} s: {state}")
        time.sleep(_POLL_S)


def _check_count(connection: MilvusConnection, name: str, expected: int) -> None:
    (found,) = connection.call("query", name, filter="", output_fields=["count(*)"], consistency_level="Strong")
    if found["count(*)"] != expected:
        raise MilvusError(f"Milvus holds {found['count(*)']:,} of {expected:,} items of {name}; load them again")


def _source_of(connection: MilvusConnection, name: str) -> str | None:
    described = connection.call("describe_collection", name)
    try:
        source: str = msgspec.json.decode(described["description"])["source"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    return source
