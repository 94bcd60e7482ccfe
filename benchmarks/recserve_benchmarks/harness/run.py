"""One run of a benchmark: what it is told, its progress, and the figures of its interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

from recserve_benchmarks.harness.contention import CpuContention, RunContention
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import EncoderManifest, read_manifest

T = TypeVar("T")
#: Shows progress: what is going on, how much of it is done, and of how much.
Show = Callable[[str, int, int], None]
#: Name of the share of the cores that other programs used during each round.
CONTENTION: Final = "contention"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a benchmark is told.

    Attributes:
        workspace: Home with an encoder and a catalogue.
        encoder: Folder of the encoder to measure.
        items: Items to serve or to search, at most.
        rounds: Rounds; figures are medians over them.
        quick: Whether to take few users and texts: to try a benchmark, not to quote it.
        seed: Seed of everything that is drawn.
        show: Shows progress.
        contention: Looked at the machine before the run; `None` where nobody did.
    """

    workspace: Workspace
    encoder: Path
    items: int = 0
    rounds: int = 1
    quick: bool = False
    seed: int = 0
    show: Show
    contention: RunContention | None = None

    @cached_property
    def manifest(self) -> EncoderManifest:
        """Manifest of the encoder; raises EncoderError where it is missing or damaged."""
        return read_manifest(self.encoder)

    def each(self, what: str, things: Sequence[T]) -> Iterator[T]:
        """Iterate over things and show how many are done."""
        for place, thing in enumerate(things):
            self.show(what, place, len(things))
            yield thing
        self.show(what, len(things), len(things))

    @contextmanager
    def stage(self, what: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Show the progress of one stage; call what it yields with the number of things just done."""
        counted = 0
        self.show(what, 0, total or 0)

        def advance(count: int) -> None:
            nonlocal counted
            counted += count
            self.show(what, counted, total or 0)

        yield advance


class Rounds:
    """Figures by a dotted name such as ``known.ratio_to_raw``, one value for each round.

    Ratios are noted within each round, because the speed of a machine drifts from round to round.

    Attributes:
        values: The values of each figure, in the order of the rounds.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def each(self, run: Run) -> Iterator[int]:
        """Number the rounds of a run, and note the CPU contention of each."""
        for number in run.each("rounds", range(run.rounds)):
            contention = CpuContention()
            yield number
            self.values.setdefault(CONTENTION, []).append(contention.share())

    def add(self, group: str, **figures: float) -> None:
        """Note figures of this round under ``group.name``."""
        for name, value in figures.items():
            self.values.setdefault(f"{group}.{name}", []).append(value)

    def results(self) -> dict[str, Any]:
        """Medians, nested by the parts of the names; `spread` (least and greatest by name); `rounds` (all values)."""
        found: dict[str, Any] = {}
        for name, values in self.values.items():
            *groups, last = name.split(".")
            into = found
            for group in groups:
                into = into.setdefault(group, {})
            into[last] = median(values)
        spread = {name: (min(values), max(values)) for name, values in self.values.items()}
        return {**found, "spread": spread, "rounds": self.values}
