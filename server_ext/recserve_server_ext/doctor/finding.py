"""What a check of `recserve doctor` found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        found: What was there.
        advice: What to do; empty when all is well.
    """

    check: str
    found: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.advice
