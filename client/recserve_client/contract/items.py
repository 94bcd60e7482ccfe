"""Packed messages of the model `items`: change and read the catalogue."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from recserve_client.contract.ids import ItemId

Revision = Annotated[int, Meta(ge=0)]
_NO_NUL = r"^[^\x00]*$"
RequestId = Annotated[str, Meta(max_length=128, pattern=_NO_NUL)]
#: Items of one request at most.
MOST_ITEMS = 10_000


class NewItem(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """An item to put into the catalogue, in place of the one with its id.

    Attributes:
        id: Item id.
        texts: Text fields by name; at least one that has a weight in the catalogue and is not blank.
        attributes: Values by name: string, integer (64 bits), finite number, boolean, list of strings or place (a list
            of latitude and longitude in degrees).
        available: Whether it may be recommended.
        if_revision: Refuse the change as `conflict` unless the item was last changed at this revision of the catalogue;
            0 = unless there is none yet. Absent = change it in any case.
    """

    id: ItemId
    texts: dict[str, str]
    attributes: dict[str, Any] = {}
    available: bool = True
    if_revision: Revision | UnsetType = UNSET


class OldItem(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """An item to take out of the catalogue; `if_revision` as in `NewItem`."""

    id: ItemId
    if_revision: Revision | UnsetType = UNSET


class UpsertItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="upsert", gc=False):
    """Put items into the catalogue, as one change.

    Attributes:
        items: Of the type `NewItem`; one that is refused is named in the answer and does not hold up the others.
        request_id: The same change under the same id is done once and answered again. Empty = no id.
    """

    items: Annotated[list[Raw], Meta(min_length=1, max_length=MOST_ITEMS)]
    request_id: RequestId = ""


class DeleteItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="delete", gc=False):
    """Take items out of the catalogue, as one change.

    Attributes:
        items: Of the type `OldItem`; one that is refused is named in the answer and does not hold up the others.
        request_id: The same change under the same id is done once and answered again. Empty = no id.
    """

    items: Annotated[list[Raw], Meta(min_length=1, max_length=MOST_ITEMS)]
    request_id: RequestId = ""


class GetItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="get", gc=False):
    """Read items by id."""

    ids: Annotated[list[Annotated[ItemId, Meta(pattern=_NO_NUL)]], Meta(min_length=1, max_length=MOST_ITEMS)]


class ListItems(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="list", gc=False):
    """Read items in the order of their ids.

    Attributes:
        after: The `next` of the page before; empty = from the beginning.
        limit: How many at most.
    """

    after: Annotated[str, Meta(max_length=512, pattern=_NO_NUL)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


ItemsRequest = UpsertItems | DeleteItems | GetItems | ListItems


class ItemResult(Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of one item of a change.

    Attributes:
        id: Item id, as far as it could be read.
        status: `created`, `updated` and `deleted` say what changed; `unchanged`: it was so already; `absent`: there was
            nothing to delete; `conflict`: another revision than `if_revision`; `refused`: see `error`.
        error: Why it was refused: names the place and the value.
        kind: `attribute_type` where an attribute would get another type than it has in the catalogue, see `error`.
    """

    id: str
    status: Literal["created", "updated", "unchanged", "deleted", "absent", "conflict", "refused"]
    error: str = ""
    kind: Literal["", "attribute_type"] = ""


class ItemsChanged(Struct, frozen=True, gc=False):
    """The answer to a change, which is durable.

    Attributes:
        revision: Of the catalogue with this change; a later `min_revision` of it includes the change.
        results: One for each item, in the order of the request.
        is_replay: Whether the change was done before under this `request_id`.
    """

    revision: int
    results: list[ItemResult]
    is_replay: bool = False


class CatalogueItem(Struct, frozen=True, gc=False):
    """An item of the catalogue.

    Attributes:
        id: Item id.
        texts: Text fields by name.
        attributes: Values by name.
        available: Whether it may be recommended.
        revision: Of the catalogue at the item's last change.
    """

    id: str
    texts: dict[str, str]
    attributes: dict[str, Any]
    available: bool
    revision: int


class ItemsFound(Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to a question for items.

    Attributes:
        revision: Of the catalogue.
        items: Those that there are; by id in the order asked for, or a page in the order of the ids.
        missing: Ids asked for that the catalogue does not have.
        next: Where the next page begins; empty = this is the last one.
    """

    revision: int
    items: list[CatalogueItem]
    missing: list[str] = []
    next: str = ""
