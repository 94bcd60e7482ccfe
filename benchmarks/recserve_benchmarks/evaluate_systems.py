"""All systems of an evaluation, those that others are made of first."""

from __future__ import annotations

from typing import Final

from recserve_benchmarks import evaluate_blend, evaluate_log, evaluate_options, evaluate_served
from recserve_benchmarks.evaluate_system import System

SYSTEMS: Final[tuple[System, ...]] = (
    *evaluate_log.SYSTEMS,
    *evaluate_options.SYSTEMS,
    *evaluate_blend.SYSTEMS,
    *evaluate_served.SYSTEMS,
)
