"""A bound on the time that is spent on looking for the parameters of `scan`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: What faiss trains inverted lists with: iterations, and items for each list at most.
_ITERATIONS = 10
_ITEMS_PER_LIST = 256


class ScanBudget:
    """Seconds for the search, from its first build on; says what was left out for want of time.

    One index is always built, and one point of each index measured. So the search takes longer than this by the first
    build at most, or by what a later build exceeds its prediction, and by the measurement under way.

    Attributes:
        build_s: Seconds that each index took to build, by its codes and lists.
        left_out: Indexes and measurements that the time did not suffice for, in words.
    """

    def __init__(self, seconds: float = math.inf, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """
        Args:
            seconds: May be infinite.
            clock: Seconds.
        """
        self.build_s: dict[tuple[int, int], float] = {}
        self.left_out: list[str] = []
        self._seconds = seconds
        self._clock = clock
        self._began: float | None = None

    @property
    def spent_s(self) -> float:
        """Seconds since the first build began."""
        return 0.0 if self._began is None else self._clock() - self._began

    @property
    def is_spent(self) -> bool:
        """Whether nothing more is to be measured."""
        return self.spent_s >= self._seconds

    def allows(self, items: int, codes: int, lists: int) -> bool:
        """Whether there is time to build an index; one that there is no time for is noted as left out."""
        predicted_s = self.predict(items, codes, lists)
        if not self.build_s or self.spent_s + predicted_s <= self._seconds:
            return True
        self.left_out.append(
            f"{codes} codes, {lists} lists (predicted: {predicted_s:,.0f} s, spent: {self.spent_s:,.0f} s)"
        )
        return False

    def predict(self, items: int, codes: int, lists: int) -> float:
        """Seconds that an index will take to build, from the last that was built of these items; 0 before the first.

        Training and filling the lists compares items with the centres of lists; their dimensions grow with the codes.
        The whole build is taken to grow so. What does not, training the codes, makes the prediction too large where
        there are few items (178 s for 29 s with 100,000); where the bound matters the lists take most of the time.
        """
        if not self.build_s:
            return 0.0
        before, seconds = next(reversed(self.build_s.items()))
        return seconds * _comparisons(items, codes, lists) / _comparisons(items, *before)

    @contextmanager
    def building(self, codes: int, lists: int) -> Iterator[None]:
        """Measure a build."""
        start = self._clock()
        if self._began is None:
            self._began = start
        yield
        self.build_s[codes, lists] = self._clock() - start

    def cut(self, codes: int, lists: int, measured: int) -> None:
        """Note that an index was not measured to the end."""
        self.left_out.append(f"{codes} codes, {lists} lists: parameters after the first {measured}")


def _comparisons(items: int, codes: int, lists: int) -> float:
    return codes * lists * (_ITERATIONS * min(items, _ITEMS_PER_LIST * lists) + items)
