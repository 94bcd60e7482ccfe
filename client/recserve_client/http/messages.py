"""Bodies, parameters and answers that only HTTP has; all others are those of the contract."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

from recserve_client.contract import ItemResult, NewInteraction, NewItem, OldItem
from recserve_client.contract.ids import ItemId
from recserve_client.contract.interactions import MOST_INTERACTIONS
from recserve_client.contract.items import MOST_ITEMS

_Items = Meta(min_length=1, max_length=MOST_ITEMS)
_Interactions = Meta(min_length=1, max_length=MOST_INTERACTIONS)


class SlateQuery(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Parameters of a recommendation; see `RecommendRequest`.

    Attributes:
        k: Number of items wanted.
        exclude: Item id that must not be in the slate; may be repeated.
        fields: Field of the items to return; may be repeated.
        explain: Whether to return what each score is made of.
        min_revision: Answer from this revision of the catalogue or a later one.
        where: Text of a filter, such as `year >= 1990`; see docs/reference/filters.md.
        count: Whether to count the available items that match `where`.
        strategy: Name of the strategy; empty for the server's default.
        interests: Largest number of interest clusters.
        on_cold: What happens without a usable profile.
        page_size: Items of a page; all without.
        cursor: `cursor` of the page before, with `page_size`.
    """

    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    exclude: list[ItemId] = []
    fields: list[str] = []
    explain: bool = True
    min_revision: Annotated[int, Meta(ge=0)] = 0
    where: str = ""
    count: bool = False
    strategy: Annotated[str, Meta(max_length=64)] = ""
    interests: Annotated[int, Meta(ge=1, le=8)] = 1
    on_cold: Literal["fallback", "error"] | None = None
    page_size: Annotated[int, Meta(ge=1, le=1000)] | None = None
    cursor: Annotated[str, Meta(max_length=256)] | None = None


class UserQuery(SlateQuery, frozen=True, kw_only=True):
    """Parameters of a recommendation for a user by id; see `RecommendRequest`.

    Attributes:
        stated: Text of an interest that the user stated; may be repeated.
        exclude_seen: Whether all items that the user ever interacted with are excluded.
        allow_repeat: Interaction type; items with only such interactions may be recommended again. May be repeated.
    """

    stated: Annotated[list[str], Meta(max_length=20)] = []
    exclude_seen: bool = True
    allow_repeat: Annotated[list[Annotated[str, Meta(min_length=1, max_length=32)]], Meta(max_length=32)] = []


class SimilarQuery(SlateQuery, frozen=True, kw_only=True):
    """Parameters of a recommendation by one item; see `RecommendRequest`.

    Attributes:
        explain: Whether to return what each score is made of.
    """

    explain: bool = False


class ListQuery(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters of a page of the catalogue.

    Attributes:
        after: `next` of the page before; empty for the first page.
        limit: Most items of the page.
    """

    after: Annotated[str, Meta(max_length=512)] = ""
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class HistoryQuery(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Parameters of a user's history.

    Attributes:
        limit: Number of the newest interactions that are read.
    """

    limit: Annotated[int, Meta(ge=1, le=5000)] = 500


class NewItems(Struct, frozen=True, forbid_unknown_fields=True):
    """Items to insert or replace, as one change.

    Attributes:
        items: The items; a refused one is named in the answer and does not affect the others.
    """

    items: Annotated[list[NewItem], _Items]


class OldItems(Struct, frozen=True, forbid_unknown_fields=True):
    """Items to delete, as one change.

    Attributes:
        items: The items; a refused one is named in the answer and does not affect the others.
    """

    items: Annotated[list[OldItem], _Items]


class RawItems(Struct, frozen=True, forbid_unknown_fields=True):
    """`NewItems` or `OldItems` as they pass: the server checks each item for itself."""

    items: Annotated[list[Raw], _Items]


class ItemIds(Struct, frozen=True, forbid_unknown_fields=True):
    """Ids of items to read.

    Attributes:
        ids: Item ids.
    """

    ids: Annotated[list[ItemId], _Items]


class ItemContent(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What an item is to hold; see `NewItem`.

    Attributes:
        texts: Text fields by name.
        attributes: Attributes by name.
        available: Whether the item may be recommended.
        vectors: Vectors in spaces of the caller's own, by the name of the space.
    """

    texts: dict[str, str]
    attributes: dict[str, Any] = {}
    available: bool = True
    vectors: dict[str, list[float]] = {}


class ItemChanged(ItemResult, frozen=True, omit_defaults=True, kw_only=True):
    """The result of one item of a change; see `ItemResult`.

    Attributes:
        revision: Revision of the catalogue with the change.
    """

    revision: int


class NewInteractions(Struct, frozen=True, forbid_unknown_fields=True):
    """Interactions to record.

    Attributes:
        interactions: The interactions; a refused one does not affect the others.
    """

    interactions: Annotated[list[NewInteraction], _Interactions]


class RawInteractions(Struct, frozen=True, forbid_unknown_fields=True):
    """`NewInteractions` as they pass: the server checks each for itself."""

    interactions: Annotated[list[Raw], _Interactions]


class Health(Struct, frozen=True):
    """How the service is.

    Attributes:
        status: `live`: this process answers. `ready`: the server has just answered a real recommendation.
    """

    status: Literal["live", "ready"]
