"""What shapes a slate beyond the score: diversity, groups, a least score, boosts, and business rules.

Every default means "not used". docs/how-to/shape-a-slate.md has an example of each option.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Struct

from recserve_client.contract.errors import ErrorKind
from recserve_client.contract.filters import BOUNDS, Attribute, Filter, FilterBounds, check_filter
from recserve_client.contract.ids import ItemId
from recserve_client.contract.packing import RequestError, shown

Few = Meta(max_length=8)
Some = Meta(max_length=16)
Many = Meta(max_length=100)
Places = Annotated[int, Meta(ge=1, le=1000)]
BoostWeight = Annotated[float, Meta(ge=-100, le=100, description="Largest share of the boost in the score.")]
RuleName = Annotated[str, Meta(min_length=1, max_length=100)]


class Group(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """At most so many items with the same value of an attribute; an item with a list counts for each of its values.

    Attributes:
        attribute: Its name; items that lack it are not limited.
        at_most: Items of one value.
    """

    attribute: Attribute
    at_most: Places


class Recency(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="by", tag="recency"
):
    """weight * 2^(-age / half_life), age = now - attribute, not below 0; nothing for items that lack the attribute.

    Attributes:
        attribute: A number that grows with time: a year, a day, seconds since 1970.
        half_life: The age at which half of the weight is left, in the attribute's unit.
        now: In the attribute's unit; `None` takes the server's clock, in seconds since 1970.
        weight: Share of an item of age 0.
    """

    attribute: Attribute
    half_life: Annotated[float, Meta(gt=0)]
    weight: BoostWeight
    now: float | None = None


class Popularity(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="by", tag="popularity"
):
    """weight * log(1 + x) / log(1 + largest x of the catalogue); nothing for items that lack the attribute.

    Attributes:
        attribute: A count x; one below 0 counts as 0.
        weight: Share of the item with the largest count.
    """

    attribute: Attribute
    weight: BoostWeight


Boost: TypeAlias = Recency | Popularity


class Pin(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """An item has a fixed place, whatever its score; groups and the least score do not keep it away.

    Attributes:
        item: Item id; one that is unknown, unavailable or excluded is not placed.
        place: From 1, at most k.
        name: What the moved item is marked with.
    """

    item: ItemId
    place: Places
    name: RuleName = "pin"


class Bury(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Matching items come after all others: they are chosen only where no other candidate is left.

    Attributes:
        where: Which items.
        name: What the moved items are marked with.
    """

    where: Filter
    name: RuleName = "bury"


class Quota(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """At least so many matching items, as far as there are candidates; missing ones take the last places.

    Attributes:
        where: Which items.
        at_least: How many; those of all quotas together at most k.
        name: What the moved items are marked with.
    """

    where: Filter
    at_least: Places
    name: RuleName = "quota"


class SlateOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """How a slate is made of the candidates.

    Attributes:
        diversify: 0 = by score; 1 = as unlike each other as can be; between them maximal marginal relevance with
            lambda = 1 - diversify.
        min_score: Items with a lower score (boosts included) are left out.
        groups: At most n items with the same value.
        boosts: Shares that are added to the score, and shown apart from the contributions.
        pins: Items with a fixed place.
        bury: Items that come last.
        quotas: Items that there must be enough of.
    """

    diversify: Annotated[float, Meta(ge=0, le=1)] = 0.0
    min_score: float | None = None
    groups: Annotated[list[Group], Few] = []
    boosts: Annotated[list[Boost], Few] = []
    pins: Annotated[list[Pin], Many] = []
    bury: Annotated[list[Bury], Some] = []
    quotas: Annotated[list[Quota], Some] = []


def check_slate_options(options: SlateOptions, k: int, bounds: FilterBounds = BOUNDS) -> None:
    """Check what the types cannot say.

    Raises:
        RequestError: invalid_request, or too_large for a filter beyond its bounds.
    """
    taken: dict[int, str] = {}
    for pin in options.pins:
        if pin.place > k:
            raise _invalid(f"pin of {shown(pin.item)} to place {pin.place}: the slate has k = {k} places")
        if pin.place in taken:
            raise _invalid(f"place {pin.place} is pinned twice: to {shown(taken[pin.place])} and {shown(pin.item)}")
        if pin.item in taken.values():
            raise _invalid(f"{shown(pin.item)} is pinned twice")
        taken[pin.place] = pin.item
    if (wanted := sum(quota.at_least for quota in options.quotas)) > k:
        raise _invalid(f"the quotas ask for {wanted} items together: the slate has k = {k} places")
    for where in (*(rule.where for rule in options.bury), *(rule.where for rule in options.quotas)):
        check_filter(where, bounds)


def _invalid(what: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, what)
