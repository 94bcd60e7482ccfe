"""Packed messages of the model `items`: change and read the catalogue."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from recserve_client.contract.ids import ItemId

Revision = Annotated[int, Meta(ge=0)]
_NO_NUL = r"^[^\x00]*$"
RequestId = Annotated[str, Meta(max_length=128, pattern=_NO_NUL)]
#: Most items of one request.
MOST_ITEMS = 10_000


class NewItem(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """An item to insert into the catalogue, or to replace there.

    Attributes:
        id: Item id.
        texts: Text fields by name; at least one must have a weight in the catalogue and not be blank.
        attributes: Attributes by name: string, 64-bit integer, finite number, boolean, list of strings, or place (a
            list of latitude and longitude in degrees). A null leaves its attribute out.
        available: Whether the item may be recommended.
        if_revision: Change the item only if its last change was at this revision of the catalogue, with 0 only if it
            does not exist; otherwise the result is `conflict`. Absent: change it in any case.
        vectors: The item's vectors in spaces of the caller's own, by the name of the space; scaled to unit length. The
            item keeps its vectors in spaces that are not named.
    """

    id: ItemId
    texts: dict[str, str]
    attributes: dict[str, Any] = {}
    available: bool = True
    if_revision: Revision | UnsetType = UNSET
    vectors: dict[str, list[float]] = {}


class OldItem(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """An item to delete from the catalogue.

    Attributes:
        id: Item id.
        if_revision: As in `NewItem`.
    """

    id: ItemId
    if_revision: Revision | UnsetType = UNSET


class UpsertItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="upsert", gc=False):
    """Insert or replace items of the catalogue, as one change.

    Attributes:
        items: `NewItem` messages; a refused one is named in the answer and does not affect the others.
        request_id: Makes retries safe: a change with the same id is made once, and answered again. Empty for none.
    """

    items: Annotated[list[Raw], Meta(min_length=1, max_length=MOST_ITEMS)]
    request_id: RequestId = ""


class DeleteItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete", gc=False):
    """Delete items from the catalogue, as one change.

    Attributes:
        items: `OldItem` messages; a refused one is named in the answer and does not affect the others.
        request_id: Makes retries safe: a change with the same id is made once, and answered again. Empty for none.
    """

    items: Annotated[list[Raw], Meta(min_length=1, max_length=MOST_ITEMS)]
    request_id: RequestId = ""


class GetItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="get", gc=False):
    """Read items by id.

    Attributes:
        ids: Item ids.
    """

    ids: Annotated[list[Annotated[ItemId, Meta(pattern=_NO_NUL)]], Meta(min_length=1, max_length=MOST_ITEMS)]


class ListItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="list", gc=False):
    """Read items in the order of their ids.

    Attributes:
        after: `next` of the page before; empty for the first page.
        limit: Most items of the page.
    """

    after: Annotated[str, Meta(max_length=512, pattern=_NO_NUL)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


ItemsRequest = UpsertItems | DeleteItems | GetItems | ListItems


class ItemResult(Struct, frozen=True, omit_defaults=True, gc=False):
    """Result of one item of a change.

    Attributes:
        id: Item id, as far as it could be read.
        status: `created`, `updated` or `deleted`; `unchanged`: the item was the same already; `absent`: it did not
            exist; `conflict`: its revision was not `if_revision`; `refused`: see `error`.
        error: Reason of a refusal, with the path and the value.
        kind: `attribute_type` where an attribute has another type in the catalogue, see `error`.
    """

    id: str
    status: Literal["created", "updated", "unchanged", "deleted", "absent", "conflict", "refused"]
    error: str = ""
    kind: Literal["", "attribute_type"] = ""


class ItemsChanged(Struct, frozen=True, gc=False):
    """The answer to a change, which is durable.

    Attributes:
        revision: Revision of the catalogue with this change. Requests with it as `min_revision` see the change.
        results: One for each item, in the order of the request.
        is_replay: Whether the change was made before with this `request_id`.
    """

    revision: int
    results: list[ItemResult]
    is_replay: bool = False


class CatalogueItem(Struct, frozen=True, gc=False):
    """An item of the catalogue.

    Attributes:
        id: Item id.
        texts: Text fields by name.
        attributes: Attributes by name.
        available: Whether the item may be recommended.
        revision: Revision of the catalogue at the item's last change.
    """

    id: str
    texts: dict[str, str]
    attributes: dict[str, Any]
    available: bool
    revision: int


class ItemsFound(Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to `GetItems` and `ListItems`.

    Attributes:
        revision: Revision of the catalogue.
        items: The items, in the order of the request, or a page in the order of the ids.
        missing: Requested ids that the catalogue lacks.
        next: `after` of the next page; empty on the last page.
    """

    revision: int
    items: list[CatalogueItem]
    missing: list[str] = []
    next: str = ""
