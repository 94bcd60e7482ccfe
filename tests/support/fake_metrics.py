"""Triton's metrics without Triton: `triton_python_backend_utils` as far as our metrics use it.

Where Triton would end the whole server, or might, this raises: a value that is no float or not finite, a counter that
decreases, labels that are no strings.
"""

from __future__ import annotations

import math
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

#: Modules that hold on to what they imported.
_USERS = tuple(f"recserve_server_ext.triton.metrics.{name}" for name in ("models", "catalogue", "experiments"))


class FakeMetrics(ModuleType):
    """The module.

    Attributes:
        values: By name and labels as the metrics page shows them, such as `name{reason="full"}`.
        set_calls: How often each was set or incremented.
        alive: The metrics and families that nobody has let go of.
    """

    def __init__(self) -> None:
        super().__init__("triton_python_backend_utils")
        self.values: dict[str, float] = {}
        self.set_calls: dict[str, int] = {}
        self.alive: weakref.WeakSet[object] = weakref.WeakSet()
        fake = self

        class Metric:
            def __init__(self, shown: str, kind: str) -> None:
                self._shown, self._kind = shown, kind
                fake.values[shown] = 0.0
                fake.alive.add(self)

            def set(self, value: float) -> None:
                assert self._kind == "gauge", f"{self._shown} is a {self._kind}"
                self._put(value, value)

            def increment(self, value: float) -> None:
                assert self._kind == "counter", f"{self._shown} is a {self._kind}"
                assert value >= 0, f"{self._shown} would decrease by {value}"
                self._put(value, fake.values[self._shown] + value)

            def _put(self, given: float, new: float) -> None:
                assert type(given) is float, f"{self._shown} is given {given!r}"
                assert math.isfinite(given), f"{self._shown} is given {given!r}"
                fake.values[self._shown] = new
                fake.set_calls[self._shown] = fake.set_calls.get(self._shown, 0) + 1

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, *, name: str, description: str, kind: str) -> None:
                assert description
                self._name, self._kind = name, kind
                fake.alive.add(self)

            def Metric(self, *, labels: dict[str, str]) -> Metric:
                assert all(type(value) is str for value in labels.values())
                shown = ",".join(f'{name}="{value}"' for name, value in labels.items())
                return Metric(self._name + (f"{{{shown}}}" if shown else ""), self._kind)

        self.MetricFamily: Any = MetricFamily


@contextmanager
def fake_metrics() -> Iterator[FakeMetrics]:
    """Put the module in place; our modules that use it are imported anew, and forgotten at the end."""
    fake, name = FakeMetrics(), "triton_python_backend_utils"
    before = {module: sys.modules.pop(module, None) for module in (name, *_USERS)}
    sys.modules[name] = fake
    try:
        yield fake
    finally:
        for module, found in before.items():
            sys.modules.pop(module, None)
            if found is not None:
                sys.modules[module] = found
