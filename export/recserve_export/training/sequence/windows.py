"""Windows of histories: what the network of `sequence` is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recserve_export.training.base import TrainingLog
from recserve_server_ext.common.arrays import Floats, Ints
from recserve_server_ext.common.units import MICROSECONDS


class Windows(NamedTuple):
    """Windows of histories, padded behind their end.

    Attributes:
        item: [windows, length + 1] place of the item among the trained ones; -1 for padding.
        pause: [windows, length + 1] seconds since the behaviour before; 0 for the first of a history.
        held: [windows, length + 1] whether the behaviour is held out of the training.
    """

    item: Ints
    pause: Floats
    held: NDArray[np.bool_]

    def take(self, rows: Any) -> Windows:
        """Some of the windows, without columns that are all padding."""
        item = self.item[rows]
        longest = int((item >= 0).sum(axis=1).max(initial=0))
        return Windows(item[:, :longest], self.pause[rows, :longest], self.held[rows, :longest])


def windows_of(log: TrainingLog, items: Ints, length: int, held_us: int, random: np.random.Generator) -> Windows:
    """Windows that cover every history, shifted by chance; chance also orders behaviours of the same time.

    Each behaviour but the first of a history is the next one of exactly one position.

    Args:
        log: The log.
        items: [items] the trained ones, ascending.
        length: Behaviours that the network takes.
        held_us: Behaviours from this time on are held out.
        random: Of shifts and order.
    """
    order = np.lexsort([random.random(len(log.item)), log.time_us, log.user])
    item, time_us = np.searchsorted(items, log.item[order]), log.time_us[order]
    first = np.flatnonzero(np.diff(log.user, prepend=-1))
    end = np.append(first[1:], len(item))
    pause = np.diff(time_us, prepend=time_us[:1]) / MICROSECONDS
    pause[first] = 0.0
    # The first window is cut short by chance, so that the others start anywhere.
    shift = np.where(end - first > length + 1, random.integers(0, length, len(first)), 0)
    count = -(-np.maximum(end - first - 1 + shift, 0) // length)
    history = np.repeat(np.arange(len(first)), count)
    number = np.arange(len(history)) - np.repeat(np.cumsum(count) - count, count)
    start = first[history] - shift[history] + length * number
    low = np.maximum(start, first[history])
    high = np.minimum(start + length + 1, end[history])
    place = low[:, None] + np.arange(length + 1)
    inside = place < high[:, None]
    place = np.where(inside, place, 0)
    is_held = inside & (time_us[place] >= held_us)
    kept = high - low > 1
    return Windows(np.where(inside, item[place], -1)[kept], np.where(inside, pause[place], 0.0)[kept], is_held[kept])


def batches(windows: Windows, size: int, random: np.random.Generator) -> Iterator[Windows]:
    """The windows in batches of similar lengths, in random order."""
    lengths = (windows.item >= 0).sum(axis=1)
    order = np.argsort(lengths + random.random(len(lengths)), kind="stable")
    starts = random.permutation(np.arange(0, len(order), size))
    for start in starts.tolist():
        yield windows.take(order[start : start + size])
