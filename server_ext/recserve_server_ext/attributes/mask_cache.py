"""A least-recently-used cache of filter masks, bounded by bytes."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from cachetools import LRUCache

from recserve_client.contract.filters import And, Filter, Not, Or, Value
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.filters import filter_mask
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
    """Evaluates each filter once on the columns of a snapshot; thread-safe.

    Filters that differ only in the order, grouping or repetition of their parts share a mask.
    """

    def __init__(self, columns: AttributeColumns, max_bytes: int) -> None:
        self._columns = columns
        self._cache = LRUCache[bytes, Matches](max_bytes, getsizeof=lambda matches: matches.mask.nbytes)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    def matches(self, condition: Filter, key: bytes | None = None) -> Matches:
        """The rows that match a filter that passed `check_filter` and `check_attributes`.

        Args:
            condition: The filter.
            key: Its `canonical_key`, where the caller has it: sorting a long list takes milliseconds.
        """
        key = key or canonical_key(condition)
        with self._lock:
            if (matches := self._cache.get(key)) is not None:
                return matches
        # Outside the lock: two threads may evaluate the same filter, but no thread waits for another one's.
        mask = filter_mask(condition, self._columns)
        mask.setflags(write=False)
        matches = Matches(mask, int(np.count_nonzero(mask)))
        # A mask that is larger than the whole cache is not cached.
        with self._lock, suppress(ValueError):
            self._cache[key] = matches
        return matches


def canonical_key(condition: Filter) -> bytes:
    """A digest of a filter, equal for filters that differ only in order, grouping, repetition or 1.0 for 1."""
    return hashlib.blake2b(_canonical(condition).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _canonical(condition: Filter) -> str:
    if isinstance(condition, Not):
        inner = condition.of
        return _canonical(inner.of) if isinstance(inner, Not) else f"not({_canonical(inner)})"
    if isinstance(condition, And | Or):
        parts = sorted({_canonical(part) for part in _flattened(condition)})
        return parts[0] if len(parts) == 1 else f"{type(condition).__name__}({','.join(parts)})"
    options = [_normalised(getattr(condition, name)) for name in condition.__struct_fields__]
    return f"{type(condition).__name__}{options!r}"


def _flattened(group: And | Or) -> list[Filter]:
    """The parts of a group; nested groups of the same kind are flattened."""
    parts: list[Filter] = []
    for part in group.of:
        parts.extend(_flattened(part) if type(part) is type(group) else [part])
    return parts


def _normalised(value: Any) -> Any:
    """A value whose repr is the same for equal values."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return _distinct_values(value) if isinstance(value, list) else value


def _distinct_values(values: list[Value]) -> list[list[Any]]:
    """The distinct values, sorted within each kind: kinds do not compare, and True == 1."""
    texts = {value for value in values if isinstance(value, str)}
    flags = {value for value in values if isinstance(value, bool)}
    numbers = {_normalised(value) for value in values if not isinstance(value, str | bool)}
    return [sorted(texts), sorted(flags), sorted(numbers)]
