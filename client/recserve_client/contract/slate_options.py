"""Slate options: diversity, groups, minimum score, boosts and business rules.

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
BoostWeight = Annotated[float, Meta(ge=-100, le=100, description="What the boost adds to the score at most.")]
RuleName = Annotated[str, Meta(min_length=1, max_length=100)]


class Group(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A limit on the items with the same value of an attribute; an item with a list counts for each of its values.

    Attributes:
        attribute: Name of the attribute; items that lack it are not limited.
        at_most: Largest number of items with one value.
    """

    attribute: Attribute
    at_most: Places


class Recency(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="by", tag="recency"
):
    """Boosts new items by weight * 2^(-age / half_life), age = max(0, now - attribute); 0 without the attribute.

    Attributes:
        attribute: Name of a number that grows with time: a year, a day, seconds since 1970.
        half_life: Age that halves the boost, in the attribute's unit.
        now: Current time in the attribute's unit; `None` takes the server's time, in seconds since 1970.
        weight: Boost of an item of age 0.
    """

    attribute: Attribute
    half_life: Annotated[float, Meta(gt=0)]
    weight: BoostWeight
    now: float | None = None


class Popularity(
    Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False, tag_field="by", tag="popularity"
):
    """Boosts popular items by weight * log(1 + x) / log(1 + largest x of the catalogue); 0 without the attribute.

    Attributes:
        attribute: Name of a count x; a negative one counts as 0.
        weight: Boost of the item with the largest count.
    """

    attribute: Attribute
    weight: BoostWeight


Boost: TypeAlias = Recency | Popularity


class Pin(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Gives an item a fixed place, whatever its score, groups and the minimum score.

    Attributes:
        item: Item id; an item that is unknown, unavailable or excluded is not placed.
        place: Place from 1 to k.
        name: Name of the rule, reported in `rules` of the item.
    """

    item: ItemId
    place: Places
    name: RuleName = "pin"


class Bury(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ranks matching items after all others: they are chosen only where no other candidate is left.

    Attributes:
        where: Filter of the items.
        name: Name of the rule, reported in `rules` of the items that it moved.
    """

    where: Filter
    name: RuleName = "bury"


class Quota(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Requires a number of matching items, as far as there are candidates; they take the last places if necessary.

    Attributes:
        where: Filter of the items.
        at_least: Smallest number of items; at most k for all quotas together.
        name: Name of the rule, reported in `rules` of the items that it moved.
    """

    where: Filter
    at_least: Places
    name: RuleName = "quota"


class SlateOptions(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """How a slate is made from the candidates.

    Attributes:
        diversify: Maximal marginal relevance with lambda = 1 - diversify: 0 ranks by score, 1 only by difference.
        min_score: Items with a lower score, boosts included, are left out.
        groups: Limits on items with the same attribute value.
        boosts: Recency and popularity, added to the score and reported apart from the contributions.
        pins: Items with a fixed place.
        bury: Items that come last.
        quotas: Items that must be in the slate.
    """

    diversify: Annotated[float, Meta(ge=0, le=1)] = 0.0
    min_score: float | None = None
    groups: Annotated[list[Group], Few] = []
    boosts: Annotated[list[Boost], Few] = []
    pins: Annotated[list[Pin], Many] = []
    bury: Annotated[list[Bury], Some] = []
    quotas: Annotated[list[Quota], Some] = []


def check_slate_options(options: SlateOptions, k: int, bounds: FilterBounds = BOUNDS) -> None:
    """Check what the types cannot express.

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
