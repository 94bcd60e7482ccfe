"""Which variant of which experiment a user gets: by hash, so it stays the same, needs no store, and is even."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, NamedTuple

import msgspec

from recserve_client.contract import AssignedVariant, ErrorKind, RecommendRequest, RequestError
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.requests import check_request
from recserve_server_ext.strategies.registry import Registry

#: What a variant cannot set: who is asked for, and the choice of variants itself.
_FIXED: Final = ("user_id", "variants")
_ROUNDING: Final = 1e-9


class Assignment(NamedTuple):
    """What a request is answered with.

    Attributes:
        request: With the options of its variants.
        variants: One for each experiment that the user takes part in.
    """

    request: RecommendRequest
    variants: list[AssignedVariant]


class _Choice(NamedTuple):
    """One variant, ready to be used.

    Attributes:
        assigned: As the answer tells it.
        values: Options by name, of the types of the request.
    """

    assigned: AssignedVariant
    values: dict[str, Any]


class _Running(NamedTuple):
    """One experiment, ready to be used.

    Attributes:
        name: Of the experiment.
        layer: Of the experiment.
        start: Where its users begin in the layer, from 0.
        end: Where they end, at most 1.
        choices: Its variants.
        bounds: The end of each variant, the last one being 1.
    """

    name: str
    layer: str
    start: float
    end: float
    choices: list[_Choice]
    bounds: list[float]


class Experiments:
    """Assigns variants to users.

    A user's place in a layer is a hash of the layer's name and the user's first pseudonym, which stays the same when
    keys are rotated; the experiments of a layer take
    intervals of [0, 1) in the order they are configured, as long as their shares. The variant is a hash of the
    experiment's name and that pseudonym. So layers are independent of each other and of the split within.
    """

    def __init__(self, experiments: Sequence[Experiment], limits: Limits, strategies: Registry) -> None:
        """
        Args:
            experiments: As configured.
            limits: The largest request; options are checked against them.
            strategies: That variants may name.

        Raises:
            ConfigError: A name is there twice, a layer has more than all users, an option is unknown or wrong, or two
                layers set the same option.
        """
        self._running: dict[str, _Running] = {}
        ends: dict[str, float] = {}
        for experiment in experiments:
            if experiment.name in self._running:
                raise ConfigError(f"the experiment {experiment.name!r} is configured twice")
            layer = experiment.layer or f"experiment {experiment.name}"
            start = ends.get(layer, 0.0)
            ends[layer] = end = start + experiment.share
            if end > 1 + _ROUNDING:
                raise ConfigError(
                    f"the shares of the experiments of layer {layer!r} add up to {end:g}; at most 1 is there"
                )
            self._running[experiment.name] = _running(experiment, layer, (start, end), limits, strategies)
        _check_apart(self._running.values())

    def assign(self, request: RecommendRequest, pseudonym: str) -> Assignment:
        """The variants of a user, and the request with their options.

        Args:
            request: Its `variants` are taken in place of the assigned ones.
            pseudonym: Of the user under the first key, see `Pseudonyms.origin`.

        Raises:
            RequestError: invalid_request: it forces what is not configured, or two experiments of one layer.
        """
        if not self._running:
            if request.variants:
                raise _refused("$.variants names an experiment, and none is configured")
            return Assignment(request, [])
        chosen = self._forced(request.variants)
        taken = {self._running[name].layer for name in request.variants}
        places: dict[str, float] = {}
        for experiment in self._running.values():
            layer = experiment.layer
            if layer in taken:
                continue
            if layer not in places:
                places[layer] = place_of("layer", layer, pseudonym)
            if experiment.start <= places[layer] < experiment.end:
                number = bisect_right(experiment.bounds, place_of("variant", experiment.name, pseudonym))
                chosen.append(experiment.choices[min(number, len(experiment.choices) - 1)])
        values = {name: value for choice in chosen for name, value in choice.values.items()}
        answered = msgspec.structs.replace(request, **values) if values else request
        return Assignment(answered, [choice.assigned for choice in chosen])

    def _forced(self, forced: Mapping[str, str]) -> list[_Choice]:
        chosen: list[_Choice] = []
        for name, variant in forced.items():
            experiment = self._running.get(name)
            choices = experiment.choices if experiment is not None else ()
            found = [choice for choice in choices if choice.assigned.variant == variant]
            if not found:
                # What came is not quoted: any value of such a request may name a user.
                known = "; ".join(
                    f"{of.name}: {', '.join(choice.assigned.variant for choice in of.choices)}"
                    for of in self._running.values()
                )
                raise _refused(f"$.variants names what is not configured; there is {known}")
            chosen += [_Choice(msgspec.structs.replace(of.assigned, forced=True), of.values) for of in found]
        if len({self._running[name].layer for name in forced}) < len(forced):
            raise _refused("$.variants names two experiments of one layer, which no user takes part in")
        return chosen


def place_of(kind: str, name: str, pseudonym: str) -> float:
    """A user's place in [0, 1): the first 53 bits of SHA-256 over the kind, the name and the pseudonym."""
    digest = hashlib.sha256(f"recserve {kind}\n{name}\n{pseudonym}".encode()).digest()
    return float((int.from_bytes(digest[:8], "big") >> 11) / 2**53)


def _running(
    experiment: Experiment, layer: str, users: tuple[float, float], limits: Limits, strategies: Registry
) -> _Running:
    names = [variant.name for variant in experiment.variants]
    if len(set(names)) < len(names):
        raise ConfigError(f"two variants of the experiment {experiment.name!r} have the same name")
    version = version_of(experiment)
    choices = [
        _Choice(
            AssignedVariant(experiment.name, variant.name, version),
            _values(experiment.name, variant, limits, strategies),
        )
        for variant in experiment.variants
    ]
    total = sum(variant.weight for variant in experiment.variants)
    bounds = [weight / total for weight in accumulate(variant.weight for variant in experiment.variants)]
    return _Running(experiment.name, layer, *users, choices, bounds)


def _values(experiment: str, variant: Variant, limits: Limits, strategies: Registry) -> dict[str, Any]:
    """The options of a variant as values of a request."""
    what = f"experiment {experiment!r}, variant {variant.name!r}"
    for name in _FIXED:
        if name in variant.options:
            raise ConfigError(f"{what}: an option {name!r} cannot be set by a variant")
    try:
        request = msgspec.convert({"user_id": "anyone", **variant.options}, RecommendRequest)
        check_request(request, limits)
        if request.strategy:
            strategies.choose(request.strategy, request.options)
    except (msgspec.ValidationError, RequestError) as error:
        raise ConfigError(f"{what}: {error}") from error
    return {name: getattr(request, name) for name in variant.options}


def _check_apart(running: Any) -> None:
    """Two experiments that one user may be in at once must not set the same option."""
    setter: dict[str, _Running] = {}
    for experiment in running:
        for name in {name for choice in experiment.choices for name in choice.values}:
            other = setter.setdefault(name, experiment)
            if other.layer != experiment.layer:
                raise ConfigError(
                    f"the experiments {other.name!r} and {experiment.name!r} both set {name!r}; give them one layer"
                )


def _refused(text: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, text)
