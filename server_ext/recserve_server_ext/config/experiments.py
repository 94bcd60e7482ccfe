"""Experiments as they are configured: variants with options, shares, and the layer that keeps experiments apart."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_-]{0,63}$")]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to answer.

    Attributes:
        name: Within its experiment.
        options: Fields of a `RecommendRequest` that take the place of the caller's; without any the caller's count.
        weight: Its part of the experiment's users, relative to the other variants.
    """

    name: Name
    options: dict[str, Any] = {}
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Variants that are compared on users drawn by hash.

    Attributes:
        name: Of the experiment.
        variants: The first one is what the others are compared with.
        layer: A user takes part in one experiment of a layer at most; empty for a layer of its own.
        share: Part of all users; those of one layer add up to 1 at most.
    """

    name: Name
    variants: Annotated[list[Variant], Meta(min_length=2, max_length=10)]
    layer: Annotated[str, Meta(pattern="^([a-z][a-z0-9_-]{0,63})?$")] = ""
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0


def version_of(experiment: Experiment) -> str:
    """Eight hexadecimal digits that change with the variants, their weights and their options."""
    content = msgspec.json.encode((experiment.name, experiment.variants), order="deterministic")
    return hashlib.sha256(content).hexdigest()[:8]
