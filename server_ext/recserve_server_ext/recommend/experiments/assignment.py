"""Assigns experiment variants to users by hash: stable, uniform, and without a store."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec

from recserve_client.contract import AssignedVariant, ErrorKind, RecommendRequest, RequestError
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.requests import check_request
from recserve_server_ext.strategies.registry import Registry

#: Options that a variant cannot set.
_FIXED: Final = ("user_id", "variants")
_ROUNDING: Final = 1e-9


class Assignment(NamedTuple):
    """The variants of a request, and the request with their options.

    Attributes:
        request: The request with the options of its variants.
        variants: One for each experiment that the user takes part in.
    """

    request: RecommendRequest
    variants: list[AssignedVariant]


class _PreparedVariant(NamedTuple):
    """A variant with validated options.

    Attributes:
        assigned: The variant as an answer reports it.
        values: Options by name, in the types of the request.
    """

    assigned: AssignedVariant
    values: dict[str, Any]


class _PreparedExperiment(NamedTuple):
    """An experiment with validated variants.

    Attributes:
        name: Name of the experiment.
        layer: Name of its layer.
        start: Start of its interval of the layer, from 0.
        end: End of that interval, at most 1.
        variants: Its variants.
        bounds: [variants] end of each variant's interval; the last one is 1.
    """

    name: str
    layer: str
    start: float
    end: float
    variants: list[_PreparedVariant]
    bounds: list[float]


class Experiments:
    """Assigns variants to users.

    A user's position in a layer is a hash of the layer's name and the user's first pseudonym, which stays the same when
    keys are rotated. The experiments of a layer take intervals of [0, 1) in the order in which they were started, with
    their shares as lengths. The variant is a hash of the experiment's name and that pseudonym. So layers are
    independent of each other, and of the split into variants.
    """

    def __init__(self, experiments: Sequence[Experiment], limits: Limits, strategies: Registry | None) -> None:
        """
        Args:
            experiments: The experiments that run together.
            limits: Limits that options are checked against.
            strategies: Strategies that variants may name; `None` where they are not known here, and not checked.

        Raises:
            ConfigError: A name occurs twice, the shares of a layer exceed 1, an option is unknown or invalid, or two
                layers set the same option.
        """
        self._experiments: dict[str, _PreparedExperiment] = {}
        ends: dict[str, float] = {}
        for experiment in experiments:
            if experiment.name in self._experiments:
                raise ConfigError(f"the experiment {experiment.name!r} is there twice")
            layer = experiment.layer or f"experiment {experiment.name}"
            start = ends.get(layer, 0.0)
            ends[layer] = end = start + experiment.share
            if end > 1 + _ROUNDING:
                raise ConfigError(
                    f"the shares of the experiments of layer {layer!r} add up to {end:g}; they must be at most 1"
                )
            self._experiments[experiment.name] = _prepared(experiment, layer, (start, end), limits, strategies)
        _check_apart(self._experiments.values())

    def assign(self, request: RecommendRequest, pseudonym: str) -> Assignment:
        """The variants of a user, and the request with their options.

        Args:
            request: Its `variants` replace the assigned ones.
            pseudonym: First pseudonym of the user, see `Pseudonyms.origin`.

        Raises:
            RequestError: invalid_request: a forced variant does not run, or two are of one layer.
        """
        if not self._experiments:
            if request.variants:
                raise _refused("$.variants names an experiment, but none runs")
            return Assignment(request, [])
        chosen = self._forced(request.variants)
        taken = {self._experiments[name].layer for name in request.variants}
        positions: dict[str, float] = {}
        for experiment in self._experiments.values():
            layer = experiment.layer
            if layer in taken:
                continue
            if layer not in positions:
                positions[layer] = hash_position("layer", layer, pseudonym)
            if experiment.start <= positions[layer] < experiment.end:
                number = bisect_right(experiment.bounds, hash_position("variant", experiment.name, pseudonym))
                chosen.append(experiment.variants[min(number, len(experiment.variants) - 1)])
        values = {name: value for variant in chosen for name, value in variant.values.items()}
        answered = msgspec.structs.replace(request, **values) if values else request
        return Assignment(answered, [variant.assigned for variant in chosen])

    def _forced(self, forced: Mapping[str, str]) -> list[_PreparedVariant]:
        """The variants that a request names, marked as forced."""
        chosen: list[_PreparedVariant] = []
        for name, variant in forced.items():
            experiment = self._experiments.get(name)
            variants = experiment.variants if experiment is not None else ()
            named = [prepared for prepared in variants if prepared.assigned.variant == variant]
            if not named:
                # The request's values are not quoted: any of them may name a user.
                known = "; ".join(
                    f"{other.name}: {', '.join(prepared.assigned.variant for prepared in other.variants)}"
                    for other in self._experiments.values()
                )
                raise _refused(f"$.variants names a variant that is not running; the server has {known}")
            chosen += [
                prepared._replace(assigned=msgspec.structs.replace(prepared.assigned, forced=True))
                for prepared in named
            ]
        if len({self._experiments[name].layer for name in forced}) < len(forced):
            raise _refused("$.variants names two experiments of one layer; a user takes part in one of them")
        return chosen


def hash_position(kind: str, name: str, pseudonym: str) -> float:
    """A user's position in [0, 1): the first 53 bits of SHA-256 over the kind, the name and the pseudonym."""
    digest = hashlib.sha256(f"recserve {kind}\n{name}\n{pseudonym}".encode()).digest()
    return float((int.from_bytes(digest[:8], "big") >> 11) / 2**53)


def _prepared(
    experiment: Experiment, layer: str, interval: tuple[float, float], limits: Limits, strategies: Registry | None
) -> _PreparedExperiment:
    names = [variant.name for variant in experiment.variants]
    if len(set(names)) < len(names):
        raise ConfigError(f"two variants of the experiment {experiment.name!r} have the same name")
    version = version_of(experiment)
    variants = [
        _PreparedVariant(
            AssignedVariant(experiment.name, variant.name, version),
            _values(experiment.name, variant, limits, strategies),
        )
        for variant in experiment.variants
    ]
    total = sum(variant.weight for variant in experiment.variants)
    bounds = [weight / total for weight in accumulate(variant.weight for variant in experiment.variants)]
    return _PreparedExperiment(experiment.name, layer, *interval, variants, bounds)


def _values(experiment: str, variant: Variant, limits: Limits, strategies: Registry | None) -> dict[str, Any]:
    """The validated options of a variant, in the types of a request."""
    what = f"experiment {experiment!r}, variant {variant.name!r}"
    for name in _FIXED:
        if name in variant.options:
            raise ConfigError(f"{what}: an option {name!r} cannot be set by a variant")
    try:
        request = msgspec.convert({"user_id": "anyone", **variant.options}, RecommendRequest)
        check_request(request, limits)
        if request.strategy and strategies is not None:
            strategies.choose(request.strategy, request.options)
    except (msgspec.ValidationError, RequestError) as error:
        raise ConfigError(f"{what}: {error}") from error
    return {name: getattr(request, name) for name in variant.options}


def _check_apart(experiments: Iterable[_PreparedExperiment]) -> None:
    """Refuse experiments of different layers that set the same option: a user may take part in both."""
    setter: dict[str, _PreparedExperiment] = {}
    for experiment in experiments:
        for name in {name for variant in experiment.variants for name in variant.values}:
            other = setter.setdefault(name, experiment)
            if other.layer != experiment.layer:
                raise ConfigError(
                    f"the experiments {other.name!r} and {experiment.name!r} both set {name!r}; give them one layer"
                )


def _refused(text: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, text)
