"""Axes of an encoder's inputs that have no fixed size, for both exporters."""

from __future__ import annotations

from typing import Final

AXES: Final = {0: "batch", 1: "sequence"}
