"""The delta of a catalogue: what changed since a snapshot, as rows after its rows, with vectors of its encoder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import numpy as np

from recserve_server_ext.batching.batcher import Encode
from recserve_server_ext.catalogue.own_vectors import warn_of_others
from recserve_server_ext.catalogue.store import Changes, ItemRow
from recserve_server_ext.catalogue.view import Delta, View
from recserve_server_ext.common.arrays import Mask, Vectors
from recserve_server_ext.encoder.item_vectors import PairCollector, encode_items

_log = logging.getLogger(__name__)
_LEAST_ROOM: Final = 64
#: Items encoded at a time; recommendations with texts are answered between two parts.
_PART: Final = 64


def with_changes(view: View, changes: Changes, encode: Encode) -> Delta:
    """The delta of a view with more changes; the view itself stays. Only the newest view of a snapshot may grow.

    An item that was written while another encoder was served has that encoder's vector: its texts are encoded again.

    Raises:
        RequestError: unavailable: an item has to be encoded, and the encoder does not answer.
    """
    old = view.delta or Delta(view.revision, [], np.empty((0, view.text.dim), np.float32), 0, {}, view.available)
    vectors, has_direction = _vectors_of(view, changes, encode)
    count = old.count + len(changes.items)
    buffer = _with_room(old.buffer, old.count, count)
    buffer[old.count : count] = vectors
    first = len(view.snapshot.ids) + old.count
    row_of = dict(old.row_of)
    row_of.update((change.item.id, row) for row, change in enumerate(changes.items, start=first))
    row_of.update(dict.fromkeys(changes.removed, -1))
    gone = [*changes.removed, *(change.item.id for change in changes.items)]
    replaced = view.row_of.rows(gone)
    added = np.array([change.item.available for change in changes.items], np.bool_)
    available = np.append(view.available, added & has_direction)
    available[replaced[replaced >= 0]] = False
    # In place, as is the buffer: older views read only their own part.
    old.items.extend(change.item for change in changes.items)
    places = {change.item.id: place for place, change in enumerate(changes.items, start=old.count)}
    old.own.update((places[item], vectors) for item, vectors in changes.own.items())
    for name, space in view.snapshot.spaces.items():
        warn_of_others(_log, name, space.manifest.dim, (own[name] for own in changes.own.values() if name in own))
    return Delta(changes.head.revision, old.items, buffer, count, row_of, available, old.own)


def _vectors_of(view: View, changes: Changes, encode: Encode) -> tuple[Vectors, Mask]:
    """Vectors [changed items, dim], and whether each item has one: weighted texts may cancel out."""
    vectors = np.zeros((len(changes.items), view.text.dim), np.float32)
    has_direction = np.ones(len(changes.items), np.bool_)
    missing = []
    for place, change in enumerate(changes.items):
        known = _known(change, view)
        if known is None:
            missing.append(place)
        else:
            vectors[place] = known
    for start in range(0, len(missing), _PART):
        part = missing[start : start + _PART]
        vectors[part], has_direction[part] = _encoded(view, changes, part, encode)
    for place in np.flatnonzero(~has_direction).tolist():
        _log.error("the texts of item %r cancel out under encoder %s", changes.items[place].item.id, view.encoder)
    return vectors, has_direction


def _known(change: ItemRow, view: View) -> Vectors | None:
    row = view.row_of.get(change.item.id, -1)
    if row >= 0 and change.texts_revision <= view.revision:
        vector: Vectors = view.text.vectors(np.array([row]))[0]
        return vector
    if change.vector is None or len(change.vector) != 4 * view.text.dim:
        return None
    return np.frombuffer(change.vector, "<f4")


def _encoded(view: View, changes: Changes, places: Sequence[int], encode: Encode) -> tuple[Vectors, Mask]:
    collector = PairCollector(changes.head.field_weights)
    with_texts = np.array([collector.add(changes.items[place].item.texts) for place in places])
    vectors = np.zeros((len(places), view.text.dim), np.float32)
    has_direction = np.zeros(len(places), np.bool_)
    if with_texts.any():
        found, cancelled = encode_items(collector, lambda texts: encode(texts, view.encoder))
        vectors[with_texts] = np.where(cancelled[:, None], np.float32(0), found)
        has_direction[with_texts] = ~cancelled
    return vectors, has_direction


def _with_room(buffer: Vectors, used: int, wanted: int) -> Vectors:
    """The buffer, or a copy of at least twice the size, so that many small changes cost little."""
    if wanted <= len(buffer):
        return buffer
    larger = np.empty((max(wanted, 2 * len(buffer), _LEAST_ROOM), buffer.shape[1]), np.float32)
    larger[:used] = buffer[:used]
    return larger
