"""Descriptions of the calls of `client.items`."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Final

import msgspec

from recserve_client.calls import CHANGE_S, Call, check_list, model_call, reader
from recserve_client.contract import (
    DeleteItems,
    GetItems,
    ItemsChanged,
    ItemsFound,
    ListItems,
    NewItem,
    OldItem,
    RequestError,
    UpsertItems,
    models,
    pack,
)
from recserve_client.errors import from_request

_changed: Final = reader(ItemsChanged)
_found: Final = reader(ItemsFound)


def upsert(
    items: Sequence[NewItem], *, request_id: str | None = None, deadline_s: float | None = CHANGE_S
) -> Call[ItemsChanged]:
    """Insert or replace items of the catalogue, as one change.

    When the call returns, the change is durable and part of every later recommendation. Items with unchanged texts are
    not encoded again.

    Args:
        items: 1 to 10,000 items.
        request_id: A change with the same id is made once; `None` for a new id, which makes retries safe.
        deadline_s: Seconds for all tries together.

    Returns:
        The revision with the change, and the result of each item; a refused item does not affect the others.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    raws = [_raw(item) for item in items]
    return model_call(models.ITEMS, UpsertItems(raws, _id(request_id)), _changed, deadline_s)


def delete(
    ids: Sequence[str | OldItem], *, request_id: str | None = None, deadline_s: float | None = CHANGE_S
) -> Call[ItemsChanged]:
    """Delete items from the catalogue, as one change; when the call returns, none of them is recommended any more.

    Args:
        ids: 1 to 10,000 item ids, or `OldItem` with a revision for items that must not have changed since.
        request_id: As in `upsert`.
        deadline_s: Seconds for all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_list(ids, "ids")
    raws = [_raw(OldItem(item) if isinstance(item, str) else item) for item in ids]
    return model_call(models.ITEMS, DeleteItems(raws, _id(request_id)), _changed, deadline_s)


def get(ids: Sequence[str], *, deadline_s: float | None = None) -> Call[ItemsFound]:
    """Items by id, and the ids that the catalogue lacks.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_list(ids, "ids")
    return model_call(models.ITEMS, GetItems(list(ids)), _found, deadline_s)


def page(*, after: str = "", limit: int = 100, deadline_s: float | None = None) -> Call[ItemsFound]:
    """A page of the items in the order of their ids.

    Args:
        after: `next` of the page before; empty for the first page.
        limit: Most items of the page, 1 to 1,000.
        deadline_s: Seconds for all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return model_call(models.ITEMS, ListItems(after, limit), _found, deadline_s)


def _raw(item: NewItem | OldItem) -> msgspec.Raw:
    try:
        return msgspec.Raw(pack(item))
    except RequestError as error:
        raise from_request(error) from None


def _id(request_id: str | None) -> str:
    return uuid.uuid4().hex if request_id is None else request_id
