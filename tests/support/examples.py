"""How many examples a property is tried on: more of them where one is cheap, and ten times as many at night."""

from __future__ import annotations

from typing import Any

from hypothesis import settings

#: Of the profile that a test is written for.
_USUAL = 100


def examples(count: int, **more: Any) -> settings:
    """Settings for `count` examples by a profile of 100, and as many more or fewer as the profile has."""
    return settings(max_examples=max(1, count * settings().max_examples // _USUAL), **more)
