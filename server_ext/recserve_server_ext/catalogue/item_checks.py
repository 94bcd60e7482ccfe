"""Checks of the items of a change, one by one: a bad item is refused alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from recserve_client.contract import ItemResult, NewItem, OldItem, RequestError, Unpacker, nearest, shown
from recserve_server_ext.catalogue.attribute_types import type_of
from recserve_server_ext.catalogue.own_vectors import OwnSpace, OwnVectors, checked
from recserve_server_ext.catalogue.store import StoredItem
from recserve_server_ext.common.units import INT64
from recserve_server_ext.config.server import Limits

_NAME_LENGTH: Final = 128
#: Characters of an id that cannot be checked, in its refusal.
_ID_SHOWN: Final = 64


class Checked(NamedTuple):
    """A checked item of a change, or its refusal.

    Attributes:
        item: The item as it will be stored; `None` for a refused item and for one to delete.
        id: Its id, as far as it can be read.
        if_revision: Revision that its last change must have; `None` for any.
        refusal: The answer to a refused item; `None` for an accepted one.
        own: Its vectors for spaces of the caller's own, by space.
    """

    item: StoredItem | None
    id: str
    if_revision: int | None
    refusal: ItemResult | None
    own: OwnVectors = MappingProxyType({})


class ItemChecks:
    """Checks items against the limits and the catalogue's text fields."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._new = Unpacker[NewItem](NewItem)
        self._old = Unpacker[OldItem](OldItem)

    def new(
        self, raws: Sequence[msgspec.Raw], weights: Mapping[str, float], spaces: Callable[[], Mapping[str, OwnSpace]]
    ) -> list[Checked]:
        """Check items to put in.

        Args:
            raws: JSON of `NewItem`.
            weights: a_f by text field; empty while the catalogue has no text fields, which then takes any.
            spaces: Gives the spaces of the caller's own, by name; see `recserve_server_ext.catalogue.own_vectors`.
        """
        seen: set[str] = set()
        return [self._one(place, raw, seen, weights, spaces) for place, raw in enumerate(raws)]

    def old(self, raws: Sequence[msgspec.Raw]) -> list[Checked]:
        """Check items to take out, JSON of `OldItem`."""
        seen: set[str] = set()
        return [self._one(place, raw, seen, None) for place, raw in enumerate(raws)]

    def _one(
        self,
        place: int,
        raw: msgspec.Raw,
        seen: set[str],
        weights: Mapping[str, float] | None,
        spaces: Callable[[], Mapping[str, OwnSpace]] = dict,
    ) -> Checked:
        try:
            item: NewItem | OldItem
            if len(raw) > self._limits.item_bytes:
                raise ValueError(
                    f"the item has {len(raw):,} bytes; limits.item_bytes allows {self._limits.item_bytes:,}"
                )
            item = self._old(bytes(raw)) if weights is None else self._new(bytes(raw))
            if isinstance(item, NewItem):  # what is stored can be deleted, whatever its id is
                check_id(item.id)
            if item.id in seen:
                raise ValueError(f"{shown(item.id)} is in this request already")
            seen.add(item.id)
            if_revision = None if isinstance(item.if_revision, msgspec.UnsetType) else item.if_revision
            if not isinstance(item, NewItem):
                return Checked(None, item.id, if_revision, None)
            stored, own = self._stored(item, weights or {}), checked(item.vectors, spaces)
            return Checked(stored, item.id, if_revision, None, own)
        except RequestError as error:
            return _refused(raw, place, error.text)
        except ValueError as error:
            return _refused(raw, place, str(error))

    def _stored(self, item: NewItem, weights: Mapping[str, float]) -> StoredItem:
        limits = self._limits
        for name, text in item.texts.items():
            if weights and name not in weights:
                raise ValueError(f"$.texts has {shown(name)}, which is no text field{nearest(name, tuple(weights))}")
            if "\0" in text:
                raise ValueError(f"$.texts.{name} holds NUL: {shown(text)}")
        texts = {name: text.strip() for name, text in item.texts.items() if text and not text.isspace()}
        if not any(weights.get(name, 1.0) for name in texts):
            raise ValueError(f"no text with a weight in $.texts {shown(item.texts)}")
        _check_attributes(item, limits)
        attributes = {name: _attribute(name, value) for name, value in item.attributes.items() if value is not None}
        return StoredItem(item.id, texts, attributes, item.available)


def _check_attributes(item: NewItem | StoredItem, limits: Limits) -> None:
    if len(item.attributes) > limits.attributes:
        raise ValueError(
            f"$.attributes has {len(item.attributes):,} of them; limits.attributes allows {limits.attributes:,}"
        )


def check_size(item: StoredItem, limits: Limits) -> None:
    """Refuse an item that no request could bring or change.

    Raises:
        ValueError: It has too many bytes or attributes.
    """
    _check_attributes(item, limits)
    if (size := len(msgspec.json.encode(item))) > limits.item_bytes:
        raise ValueError(f"the item has {size:,} bytes; limits.item_bytes allows {limits.item_bytes:,}")


def check_id(item_id: str) -> None:
    """Refuse an id that is blank, as one of characters without width is too, or holds control characters.

    Raises:
        ValueError: It does.
    """
    if item_id.isascii() and item_id.isprintable() and not item_id.isspace():
        return  # most are
    is_blank = not any(one.isprintable() and one != " " for one in item_id)
    if is_blank or any(ord(character) < 32 for character in item_id):
        raise ValueError(f"$.id is {shown(item_id)}: blank, or with control characters")


def _attribute(name: str, value: Any) -> Any:
    """The value to store: a place becomes two floats, so that all places have one type; other values stay."""
    if not 0 < len(name) <= _NAME_LENGTH:
        raise ValueError(f"$.attributes has a name of {len(name)} characters, {shown(name)}; 1 to {_NAME_LENGTH}")
    if any(isinstance(part, str) and "\0" in part for part in (value if isinstance(value, list) else [value])):
        raise ValueError(f"$.attributes.{name} holds NUL: {shown(value)}")
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return value
    if isinstance(value, int) and (isinstance(value, bool) or value in INT64):
        return value
    if isinstance(value, str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if (place := place_of(value)) is not None:
        return place
    raise ValueError(
        f"$.attributes.{name} is {shown(value)}: a string, an integer of 64 bits, a finite number, a boolean, "
        "a list of strings or a place, [latitude, longitude] in degrees, is needed"
    )


def place_of(value: Any) -> list[float] | None:
    """A place, [latitude, longitude] in degrees within -90..90 and -180..180, as floats; `None` for other values."""
    if not isinstance(value, list) or len(value) != 2:
        return None
    # True and False are integers too; NaN is within nothing.
    found = [float(part) for part in value if type(part) in (int, float) and abs(part) <= 180]
    return found if len(found) == 2 and abs(found[0]) <= 90 else None


def type_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Why the attributes of an item cannot replace its old ones, or nothing.

    This holds for every item, available or not; see also `recserve_server_ext.catalogue.attribute_types`.
    """
    for name in before.keys() & after.keys():
        old, new = type_of(before[name]), type_of(after[name])
        if old != new:
            return (
                f"$.attributes.{name} is {shown(after[name])}, a {new}; the item has a {old} there, "
                f"{shown(before[name])}. To change its type, put the item in without {shown(name)} first"
            )
    return ""


def _refused(raw: msgspec.Raw, place: int, why: str) -> Checked:
    """The refusal of an item, under its id if that can be read."""
    try:
        found = msgspec.json.decode(raw)["id"]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        found = ""
    item_id = found[:_ID_SHOWN] if isinstance(found, str) else ""
    return Checked(None, item_id, None, ItemResult(item_id, "refused", f"$.items[{place}]: {why}"))
