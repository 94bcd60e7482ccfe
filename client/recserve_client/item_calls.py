"""The requests of `client.items`, each written once as a description of its call."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from recserve_client.calls import Call, decoded, infer
from recserve_client.contract import (
    DeleteItems,
    GetItems,
    ItemsChanged,
    ItemsFound,
    ListItems,
    NewItem,
    OldItem,
    UpsertItems,
    models,
    pack,
)

_CHANGED: Final = msgspec.json.Decoder(ItemsChanged)
_FOUND: Final = msgspec.json.Decoder(ItemsFound)
#: A change has to be encoded and fsynced, and may be large.
_CHANGE_S: Final = 60.0


def upsert(
    items: Sequence[NewItem], *, request_id: str | None = None, deadline_s: float | None = _CHANGE_S
) -> Call[ItemsChanged]:
    """Put items into the catalogue, as one change: new ones, and others in place of those with their ids.

    When it returns the change is durable and in every recommendation from then on. An item whose texts did not change
    is not encoded again.

    Args:
        items: 1 to 10,000.
        request_id: The same change under the same id is done once; none = a new id, which makes further tries safe.
        deadline_s: For all tries together.

    Returns:
        The revision with the change, and what became of each item; one that is refused does not hold up the others.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    raws = [msgspec.Raw(pack(item)) for item in items]
    return Call("ModelInfer", infer(models.ITEMS, UpsertItems(raws, _id(request_id))), _changed, deadline_s)


def delete(
    ids: Sequence[str | OldItem], *, request_id: str | None = None, deadline_s: float | None = _CHANGE_S
) -> Call[ItemsChanged]:
    """Take items out of the catalogue, as one change; when it returns none of them is recommended any more.

    Args:
        ids: 1 to 10,000 item ids, or `OldItem` for those that must not have changed meanwhile.
        request_id: As in `upsert`.
        deadline_s: For all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    raws = [msgspec.Raw(pack(OldItem(item) if isinstance(item, str) else item)) for item in ids]
    return Call("ModelInfer", infer(models.ITEMS, DeleteItems(raws, _id(request_id))), _changed, deadline_s)


def get(ids: Sequence[str], *, deadline_s: float | None = None) -> Call[ItemsFound]:
    """Items by id, and which of the ids the catalogue does not have.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", infer(models.ITEMS, GetItems(list(ids))), _found, deadline_s)


def page(*, after: str = "", limit: int = 100, deadline_s: float | None = None) -> Call[ItemsFound]:
    """A page of the items in the order of their ids.

    Args:
        after: `next` of the page before; empty = from the beginning.
        limit: How many at most, 1 to 1,000.
        deadline_s: For all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", infer(models.ITEMS, ListItems(after, limit)), _found, deadline_s)


def _id(request_id: str | None) -> str:
    return uuid.uuid4().hex if request_id is None else request_id


def _changed(answer: Any) -> ItemsChanged:
    return decoded(_CHANGED, answer)


def _found(answer: Any) -> ItemsFound:
    return decoded(_FOUND, answer)
