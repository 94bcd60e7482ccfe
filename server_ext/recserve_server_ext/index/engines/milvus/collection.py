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

#: Names the published collection, for whoever reads it without us.
ALIAS: Final = "recserve"
VECTOR: Final = "vector"
ID: Final = "id"
_NAME = re.compile(rf"{ALIAS}_(\d{{20}})_[0-9a-f]{{8}}")
_INDEX = VECTOR
#: Rows of one insert, about 8 MiB with short attributes; Milvus takes 64 MiB at a time.
_CHUNK = 2000
#: What Milvus allows in a JSON value and in an id, bytes.
_JSON_BYTES, _ID_BYTES = 65_536, 65_535
_POLL_S = 0.05


@dataclass(frozen=True, eq=False)
class Loadable:
    """The items of a snapshot, as they are loaded.

    Attributes:
        vectors: [items, dim] unit float32.
        ids: Item id of each row.
        names: Names of the fields.
        take: Fields of rows [n], without those that an item lacks or with none.
        source: Identity of the catalogue store.
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
        names = fields.names
        return cls(vectors, ids, names, lambda rows: fields.take(names, rows), source)


class Loaded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a snapshot keeps about its collection, in the file `milvus.json`.

    Attributes:
        collection: Its name.
        attributes: Names of the fields, in the order of their keys.
    """

    collection: str
    attributes: list[str]


def new_collection(items: Loadable) -> Loaded:
    """A collection that is not there yet, under a new name; names sort by the moment they were made."""
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
    """Make a collection of these items, on disk, indexed and in memory when this returns; a failed one is removed.

    Args:
        connection: To Milvus.
        loaded: Its name, and the names of the attributes.
        items: Those to load.
        m: Neighbours of an item in the graph.
        ef_construction: Width of the search for them.
        done: Called with the number of items after every chunk of them.

    Raises:
        MilvusError: Milvus is away or refused, an item is larger than it takes, or not all of them arrived.
        ConfigError: Nothing says where Milvus is, or pymilvus is not installed.
    """
    name = loaded.collection
    try:
        _create(connection, name, items)
        _insert(connection, loaded, items, done)
        _index(connection, name, m, ef_construction)
        connection.call("load_collection", name, timeout_s=connection.settings.load_s)
        _check_count(connection, name, len(items.ids))
    except MilvusError:
        drop(connection, name)
        raise


def exists(connection: MilvusConnection, name: str) -> bool:
    """Whether a collection is there; raises MilvusError."""
    return bool(connection.call("has_collection", name, timeout_s=connection.settings.load_s))


def _create(connection: MilvusConnection, name: str, items: Loadable) -> None:
    connection.check()
    from pymilvus import DataType, MilvusClient

    description = msgspec.json.encode({"source": items.source, "items": len(items.ids)}).decode()
    schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False, description=description)
    schema.add_field(ROW, DataType.INT64, is_primary=True)
    schema.add_field(ID, DataType.VARCHAR, max_length=_ID_BYTES)
    schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=items.vectors.shape[1])
    schema.add_field(ATTRIBUTES, DataType.JSON)
    settings = connection.settings
    connection.call(
        "create_collection",
        name,
        schema=schema,
        consistency_level=settings.consistency,
        timeout_s=settings.load_s,
    )


def _insert(connection: MilvusConnection, loaded: Loaded, items: Loadable, done: Callable[[int], None]) -> None:
    keys = AttributeKeys(loaded.attributes)
    for start in range(0, len(items.ids), _CHUNK):
        chunk = np.arange(start, min(start + _CHUNK, len(items.ids)))
        attributes = [keys.stored(fields) for fields in items.take(chunk)]
        ids = [items.ids[row] for row in chunk.tolist()]
        _check_sizes(ids, attributes)
        columns = zip(chunk.tolist(), ids, items.vectors[chunk], attributes, strict=True)
        data = [{ROW: row, ID: item, VECTOR: vector, ATTRIBUTES: values} for row, item, vector, values in columns]
        connection.call("insert", loaded.collection, data, timeout_s=connection.settings.load_s)
        done(len(chunk))
    connection.call("flush", loaded.collection, timeout_s=connection.settings.load_s)


def _check_sizes(ids: list[str], attributes: list[dict[str, Any]]) -> None:
    for item, values in zip(ids, attributes, strict=True):
        size = len(msgspec.json.encode(values))
        if size > _JSON_BYTES:
            raise MilvusError(
                f"the fields of item {item[:64]!r} have {size:,} bytes, Milvus takes {_JSON_BYTES:,} of an item"
            )


def _index(connection: MilvusConnection, name: str, m: int, ef_construction: int) -> None:
    from pymilvus import MilvusClient

    params = MilvusClient.prepare_index_params()
    params.add_index(
        VECTOR,
        index_type="HNSW",
        metric_type="IP",
        index_name=_INDEX,
        params={"M": m, "efConstruction": ef_construction},
    )
    settings = connection.settings
    connection.call("create_index", name, params, timeout_s=settings.load_s)
    deadline = time.monotonic() + settings.load_s
    # What is loaded into memory before its index is done is searched without it for a while.
    while (state := connection.call("describe_index", name, _INDEX, timeout_s=settings.load_s))["pending_index_rows"]:
        if time.monotonic() > deadline:
            raise MilvusError(f"the index of {name} was not done within {settings.load_s:g} s: {state}")
        time.sleep(_POLL_S)


def _check_count(connection: MilvusConnection, name: str, expected: int) -> None:
    (found,) = connection.call(
        "query",
        name,
        filter="",
        output_fields=["count(*)"],
        consistency_level="Strong",
        timeout_s=connection.settings.load_s,
    )
    if found["count(*)"] != expected:
        raise MilvusError(f"Milvus holds {found['count(*)']:,} of {expected:,} items of {name}; load them again")


def delete(connection: MilvusConnection, name: str, rows: Rows) -> None:
    """Delete rows from a collection; raises MilvusError."""
    for start in range(0, len(rows), _CHUNK):
        ids = rows[start : start + _CHUNK].tolist()
        connection.call("delete", name, ids=ids, timeout_s=connection.settings.load_s)


def publish(connection: MilvusConnection, name: str) -> None:
    """Make the alias name this collection.

    Raises:
        MilvusError: Milvus is away or refused.
    """
    timeout_s = connection.settings.load_s
    try:
        connection.call("alter_alias", name, ALIAS, timeout_s=timeout_s)
    except MilvusError:
        # There is none yet.
        connection.call("create_alias", name, ALIAS, timeout_s=timeout_s)


def drop(connection: MilvusConnection, name: str) -> None:
    """Remove a collection, if it is there and Milvus answers."""
    try:
        connection.call("drop_collection", name, timeout_s=connection.settings.load_s)
    except MilvusError:
        # It is older than all that are kept one day, and goes then.
        return


def drop_older(connection: MilvusConnection, kept: Collection[str], source: str) -> list[str]:
    """Remove the collections of a catalogue that are older than all that are kept; the names removed.

    Args:
        connection: To Milvus.
        kept: Names, at least one.
        source: Identity of the catalogue store: collections of another one stay.

    Raises:
        MilvusError: Milvus is away or refused.
    """
    timeout_s = connection.settings.load_s
    oldest = min(kept)
    older = [name for name in connection.call("list_collections", timeout_s=timeout_s) if name < oldest]
    removed = []
    for name in older:
        if _NAME.fullmatch(name) and _source_of(connection, name) == source:
            drop(connection, name)
            removed.append(name)
    return removed


def _source_of(connection: MilvusConnection, name: str) -> str | None:
    described = connection.call("describe_collection", name, timeout_s=connection.settings.load_s)
    try:
        source: str = msgspec.json.decode(described["description"])["source"]
    except (msgspec.MsgspecError, KeyError, TypeError):
        return None
    return source
