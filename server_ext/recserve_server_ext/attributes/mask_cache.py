"""Masks of filters evaluated before: bounded by bytes, least recently used go first."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from recserve_client.contract.filters import And, Filter, Not, Or, Value
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.filters import count_matches, filter_mask
from recserve_server_ext.common.arrays import Mask


@dataclass(frozen=True, eq=False)
class Matches:
    """The rows that match a filter.

    Attributes:
        mask: [rows] bool, read-only.
        count: How many rows match.
    """

    mask: Mask
    count: int


class MaskCache:
    """Evaluates each filter once on one revision of the catalogue; safe for use from several threads.

    Filters that differ only in the order, the grouping or the repetition of their parts share a mask.
    """

    def __init__(self, columns: AttributeColumns, max_bytes: int) -> None:
        """Keep masks over these columns, of at most so many bytes in all."""
        self._columns = columns
        self._kept = LRUCache[bytes, Matches](max_bytes, getsizeof=lambda found: found.mask.nbytes)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def matches(self, condition: Filter, key: bytes | None = None) -> Matches:
        """The rows that match a filter that passed `check_filter` and `check_attributes`.

        Args:
            condition: The filter.
            key: Its canonical key, where the caller knows it: a long list takes milliseconds to bring into order.
        """
        key = key or canonical_key(condition)
        with self._lock:
            if (found := self._kept.get(key)) is not None:
                return found
        # Outside the lock: two threads may evaluate the same filter, but none waits for another's.
        mask = filter_mask(condition, self._columns)
        mask.setflags(write=False)
        found = Matches(mask, count_matches(mask))
        # One that is larger than the whole cache is not kept.
        with self._lock, suppress(ValueError):
            self._kept[key] = found
        return found


def canonical_key(condition: Filter) -> bytes:
    """A digest that is the same for filters that differ only in order, grouping or repetition, or 1.0 for 1."""
    return hashlib.blake2b(_canonical(condition).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _canonical(condition: Filter) -> str:
    if isinstance(condition, Not):
        inner = condition.of
        return _canonical(inner.of) if isinstance(inner, Not) else f"not({_canonical(inner)})"
    if isinstance(condition, And | Or):
        parts = sorted({_canonical(part) for part in _opened(condition)})
        return parts[0] if len(parts) == 1 else f"{type(condition).__name__}({','.join(parts)})"
    options = [_plain(getattr(condition, name)) for name in condition.__struct_fields__]
    return f"{type(condition).__name__}{options!r}"


def _opened(group: And | Or) -> list[Filter]:
    """The parts of a group, with those of groups of the same kind inside it."""
    parts: list[Filter] = []
    for part in group.of:
        parts.extend(_opened(part) if type(part) is type(group) else [part])
    return parts


def _plain(value: Any) -> Any:
    """A value whose repr is the same for equal values."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _plain_values(value) if isinstance(value, list) else value


def _plain_values(values: list[Value]) -> list[list[Any]]:
    """Each value once, in order; apart by kind, since kinds have no order among them, and True == 1."""
    texts = {value for value in values if isinstance(value, str)}
    flags = {value for value in values if isinstance(value, bool)}
    numbers = {_plain(value) for value in values if not isinstance(value, str | bool)}
    return [sorted(texts), sorted(flags), sorted(numbers)]
