"""Filters, boosts and attributes on a catalogue view. Masks of the snapshot are cached across views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
from cachetools import LRUCache

from recserve_client.contract.filters import And, Filter
from recserve_client.contract.slate_options import Boost
from recserve_server_ext.attributes.boosts import boost_shares
from recserve_server_ext.attributes.columns import AttributeColumns
from recserve_server_ext.attributes.filters import check_attributes, filter_mask
from recserve_server_ext.attributes.mask_cache import MaskCache, canonical_key
from recserve_server_ext.attributes.values import Source, candidate_numbers
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Mask, Rows
from recserve_server_ext.index.engines.engine import RemoteEngine

#: Size of the cached masks over a snapshot's rows.
_MASK_BYTES = 64 * 2**20
#: Filters of one view whose masks are cached, and attributes by which its rows are sorted.
_READY = 16
#: Boosts of one view that are cached for all rows, 8 bytes a row.
_BOOSTS = 8


@dataclass(frozen=True, eq=False)
class Allowed:
    """The available items of a view that match a filter.

    Attributes:
        mask: [rows] bool, read-only.
        items: Number of items of the snapshot; the rows after them belong to the delta.
        where: The filter, for an engine that evaluates it itself; `None` where no engine can.
    """

    mask: Mask
    items: int
    where: Filter | None = None

    @cached_property
    def count(self) -> int:
        """Number of these items."""
        return int(np.count_nonzero(self.mask))

    @cached_property
    def rows(self) -> Rows:
        """Rows of those in the snapshot, ascending."""
        return np.flatnonzero(self.mask[: self.items])

    def also(self, other: Allowed) -> Allowed:
        """The items that match both filters."""
        where = None if self.where is None or other.where is None else And([self.where, other.where])
        return Allowed(self.mask & other.mask, self.items, where)


class ViewFilters:
    """Evaluates filters and boosts on one view, and finds the attributes of its rows."""

    def __init__(self, view: View, columns: AttributeColumns, masks: MaskCache) -> None:
        self._view = view
        self._columns = columns
        self._masks = masks
        self._ready = LRUCache[bytes, Allowed](_READY)
        self._newest = LRUCache[str, Rows](_READY)
        self._boosts = LRUCache[bytes, Floats](_BOOSTS)

    @cached_property
    def known(self) -> list[AttributeColumns]:
        """The attributes of the snapshot, and of the delta's items where there are any."""
        delta = self._view.delta
        if delta is None or not delta.count:
            return [self._columns]
        return [self._columns, AttributeColumns.of_items([item.fields for item in delta.items[: delta.count]])]

    def allowed(self, condition: Filter) -> Allowed:
        """The available items that match a filter that passed `check_filter`; the same object for equal filters.

        Raises:
            RequestError: unknown_field or invalid_request: see `check_attributes`, or the engine does not support it.
        """
        engine = self._view.snapshot.text.engine
        if isinstance(engine, RemoteEngine):
            engine.check(condition)
        key = canonical_key(condition)
        allowed = self._ready.get(key)
        if allowed is None:
            mask = self.matches(condition, key) & self._view.available
            mask.setflags(write=False)
            allowed = self._ready[key] = Allowed(mask, len(self._view.snapshot.ids), condition)
        return allowed

    def matches(self, condition: Filter, key: bytes | None = None) -> Mask:
        """[rows] items that match, available or not; `key` is the filter's `canonical_key`, where the caller has it.

        Raises:
            RequestError: unknown_field or invalid_request, see `check_attributes`.
        """
        check_attributes(condition, self.known)
        of_snapshot = self._masks.matches(condition, key).mask
        return np.concatenate([of_snapshot, *(filter_mask(condition, columns) for columns in self.known[1:])])

    def newest(self, attribute: str) -> Rows:
        """Rows of the items with a number in an attribute, the greatest number first."""
        rows = self._newest.get(attribute)
        if rows is None:
            values = candidate_numbers(attribute, self.sources(np.arange(len(self._view.available))[None]))[0]
            rows = np.argsort(-values, kind="stable")[: np.count_nonzero(~np.isnan(values))]
            self._newest[attribute] = rows
        return rows

    def boosts(self, boosts: Sequence[Boost]) -> Floats | None:
        """[rows] sum of checked boosts of each item, the same object for equal boosts; `None` without boosts."""
        if not boosts:
            return None
        key = msgspec.json.encode(boosts)
        total = self._boosts.get(key)
        if total is None:
            total = boost_shares(boosts, self.sources(np.arange(len(self._view.available))[None]))[0].sum(axis=1)
            self._boosts[key] = total
        return total

    def sources(self, rows: Rows) -> list[Source]:
        """The attributes of these rows; row -1 has none."""
        items = len(self._view.snapshot.ids)
        in_snapshot = np.where(rows < items, rows, -1)
        return [Source(self._columns, in_snapshot)] + [
            Source(columns, np.where(rows >= items, rows - items, -1)) for columns in self.known[1:]
        ]


class LiveFilters:
    """The filters of the newest view; not thread-safe."""

    def __init__(self, view: View) -> None:
        self._filters = self._of_snapshot(view)
        self._view = view

    def of(self, view: View) -> ViewFilters:
        """The filters of this view, which is the newest one from now on."""
        if view is not self._view:
            same = view.snapshot is self._view.snapshot
            self._filters = ViewFilters(view, self._columns, self._masks) if same else self._of_snapshot(view)
            self._view = view
        return self._filters

    def _of_snapshot(self, view: View) -> ViewFilters:
        self._columns = AttributeColumns.of_fields(view.snapshot.fields, len(view.snapshot.ids))
        self._masks = MaskCache(self._columns, _MASK_BYTES)
        return ViewFilters(view, self._columns, self._masks)
