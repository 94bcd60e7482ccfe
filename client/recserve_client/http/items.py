"""Operations on items of the catalogue."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import UNSET, Raw, UnsetType
from starlette.responses import Response

from recserve_client.calls import CHANGE_S
from recserve_client.contract import (
    CatalogueItem,
    DeleteItems,
    ErrorKind,
    GetItems,
    ItemResult,
    ItemsChanged,
    ItemsFound,
    ListItems,
    NewItem,
    OldItem,
    RequestError,
    Unpacker,
    UpsertItems,
    models,
    pack,
    shown,
)
from recserve_client.http.exchange import Exchange, invalid, json_response
from recserve_client.http.messages import ItemChanged, ItemContent, ItemIds, ListQuery, RawItems
from recserve_client.http.problems import HttpKind, ProblemError
from recserve_client.http.streams import in_one, stream

#: Lines of a stream that are one change.
_AT_A_TIME: Final = 500
_ETAG: Final = re.compile(r'"(\d{1,18})"')
_raws: Final = Unpacker[RawItems](RawItems)
_ids: Final = Unpacker[ItemIds](ItemIds)
_content: Final = Unpacker[ItemContent](ItemContent)
_changed: Final = msgspec.json.Decoder(ItemsChanged)
_found: Final = msgspec.json.Decoder(ItemsFound)
Change = type[UpsertItems] | type[DeleteItems]


async def upsert(exchange: Exchange) -> Response:
    """Insert or replace items; of a stream, a result for each line."""
    return await _change_many(exchange, UpsertItems)


async def delete(exchange: Exchange) -> Response:
    """Delete items; of a stream, a result for each line."""
    return await _change_many(exchange, DeleteItems)


async def read(exchange: Exchange) -> Response:
    """Items by id."""
    wanted = await exchange.message(_ids)
    return json_response(await exchange.ask(models.ITEMS, pack(GetItems(wanted.ids))))


async def page(exchange: Exchange) -> Response:
    """A page of the items."""
    query = exchange.query(ListQuery)
    return json_response(await exchange.ask(models.ITEMS, pack(ListItems(query.after, query.limit))))


async def get_one(exchange: Exchange) -> Response:
    """An item; not modified where the caller has its revision."""
    item_id = exchange.part("item_id")
    item = await _get(exchange, item_id)
    if item is None:
        raise _unknown(item_id)
    etag = _etag(item.revision)
    known = exchange.request.headers.get("if-none-match", "")
    if known == "*" or etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(None, 304, {"etag": etag})
    return json_response(msgspec.json.encode(item), headers={"etag": etag})


async def put_one(exchange: Exchange) -> Response:
    """Insert or replace an item, where asked only if it is of a revision."""
    item_id = exchange.part("item_id")
    content = await exchange.message(_content)
    if_revision = await _if_revision(exchange, item_id)
    item = NewItem(item_id, content.texts, content.attributes, content.available, if_revision, vectors=content.vectors)
    result = await _change_one(exchange, UpsertItems, item)
    # An unchanged item keeps an older revision, which the answer to a change does not tell.
    headers = {} if result.status == "unchanged" else {"etag": _etag(result.revision)}
    return json_response(msgspec.json.encode(result), 201 if result.status == "created" else 200, headers)


async def delete_one(exchange: Exchange) -> Response:
    """Delete an item, where asked only if it is of a revision."""
    item_id = exchange.part("item_id")
    item = OldItem(item_id, await _if_revision(exchange, item_id))
    result = await _change_one(exchange, DeleteItems, item)
    if result.status == "absent":
        raise _unknown(item_id)
    return json_response(msgspec.json.encode(result))


async def _change_many(exchange: Exchange, change: Change) -> Response:
    if not exchange.is_stream:
        raws = await exchange.message(_raws)
        return json_response(await exchange.ask(models.ITEMS, _packed(exchange, change, raws.items), CHANGE_S))
    if "idempotency-key" in exchange.request.headers:
        raise invalid("a stream takes no Idempotency-Key: a line that is sent again changes nothing")

    async def changed(raws: list[Raw]) -> list[ItemChanged]:
        return _results(await exchange.ask(models.ITEMS, _packed(exchange, change, raws), CHANGE_S))

    return await stream(exchange, lambda lines: in_one(lines, _not_json, changed), _AT_A_TIME)


def _not_json(fault: str) -> ItemResult:
    return ItemResult("", "refused", f"the line is not JSON: {fault}")


async def _change_one(exchange: Exchange, change: Change, item: NewItem | OldItem) -> ItemChanged:
    raw = await exchange.ask(models.ITEMS, _packed(exchange, change, [Raw(pack(item))]), CHANGE_S)
    (result,) = _results(raw)
    if result.status == "refused":
        raise ProblemError(ErrorKind.INVALID_REQUEST, result.error)
    if result.status == "conflict":
        text = f"the item {shown(item.id)} is not of the revision that the request names; read it again"
        raise ProblemError(HttpKind.PRECONDITION_FAILED, text)
    return result


def _packed(exchange: Exchange, change: Change, raws: Sequence[Raw]) -> bytes:
    """A change with the caller's key, by which it is made once."""
    key = exchange.request.headers.get("idempotency-key", "")
    if len(key) > 1 and key[0] == key[-1] == '"':
        key = key[1:-1]  # a string of a structured field
    return pack(change(list(raws), key))


def _results(raw: bytes) -> list[ItemChanged]:
    answer = _changed.decode(raw)
    return [
        ItemChanged(result.id, result.status, result.error, result.kind, revision=answer.revision)
        for result in answer.results
    ]


async def _get(exchange: Exchange, item_id: str) -> CatalogueItem | None:
    found = _found.decode(await exchange.ask(models.ITEMS, pack(GetItems([item_id]))))
    return found.items[0] if found.items else None


async def _if_revision(exchange: Exchange, item_id: str) -> int | UnsetType:
    """The revision that the item must be of, by `If-Match` and `If-None-Match`."""
    headers = exchange.request.headers
    match, none_match = headers.get("if-match"), headers.get("if-none-match")
    if none_match is not None:
        if none_match != "*" or match is not None:
            raise invalid("a change takes If-None-Match: * alone, to create an item, or If-Match")
        return 0
    if match is None:
        return UNSET
    if match == "*":
        if (item := await _get(exchange, item_id)) is None:
            raise ProblemError(HttpKind.PRECONDITION_FAILED, f"there is no item {shown(item_id)}")
        return item.revision
    found = _ETAG.fullmatch(match)
    if found is None or found[1] == "0":
        raise ProblemError(HttpKind.PRECONDITION_FAILED, f"{shown(match)} is no ETag of an item; read the item again")
    return int(found[1])


def _etag(revision: int) -> str:
    return f'"{revision}"'


def _unknown(item_id: str) -> RequestError:
    return RequestError(ErrorKind.UNKNOWN_ITEM, f"the catalogue lacks {shown(item_id)}")
