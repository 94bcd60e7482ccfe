"""Experiments: variants with options, shares, and layers that keep experiments apart."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(pattern="^[a-z][a-z0-9_-]{0,63}$")]


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One way to answer.

    Attributes:
        name: Unique in its experiment.
        options: Fields of a `RecommendRequest` that replace the caller's; empty for the caller's own request.
        weight: Share of the experiment's users, relative to the other variants.
    """

    name: Name
    options: dict[str, Any] = {}
    weight: Annotated[float, Meta(gt=0, le=1e6)] = 1.0


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Variants that are compared on users drawn by hash.

    Attributes:
        name: Name of the experiment.
        variants: The others are compared with the first.
        layer: A user takes part in at most one experiment of a layer; empty for a layer of its own.
        share: Share of all users; the shares of a layer add up to at most 1.
    """

    name: Name
    variants: Annotated[list[Variant], Meta(min_length=2, max_length=10)]
    layer: Annotated[str, Meta(pattern="^([a-z][a-z0-9_-]{0,63})?$")] = ""
    share: Annotated[float, Meta(gt=0, le=1)] = 1.0


def version_of(experiment: Experiment) -> str:
    """Eight hexadecimal digits that change with the variants, their weights and their options."""
    content = msgspec.json.encode((experiment.name, experiment.variants), order="deterministic")
    return hashlib.sha256(content).hexdigest()[:8]
