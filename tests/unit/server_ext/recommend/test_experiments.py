"""Variants of experiments: evenly drawn, sticky, exclusive in a layer, independent across layers, forced for tests."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recserve_client.contract import Behaviour, RecommendRequest, RequestError
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.experiments.assignment import Experiments, hash_position
from recserve_server_ext.strategies.registry import Registry
from support.events import ANN, PSEUDONYMS

USERS = [PSEUDONYMS.of(f"user {n}") for n in range(20_000)]
REQUEST = RecommendRequest(user_id="ann")
LIMITS = Limits(exclude=2)
STRATEGIES = Registry()


def variants(**options: dict[str, Any]) -> list[Variant]:
    return [Variant(name, of) for name, of in options.items()]


def assigned(experiments: Experiments, user: str) -> dict[str, str]:
    return {of.experiment: of.variant for of in experiments.assign(REQUEST, user).variants}


MIX = Experiment("mix", variants(control={}, session={"mix": 0.9}))


def test_users_are_split_by_the_weights() -> None:
    experiment = Experiment("mix", [Variant("a", weight=5), Variant("b", weight=3), Variant("c", weight=2)])
    experiments = Experiments([experiment], LIMITS, STRATEGIES)
    found = [assigned(experiments, user)["mix"] for user in USERS]
    counts = [found.count(name) for name in "abc"]
    # Seeded by the key of the tests: this p is what it is, or the hash changed.
    assert stats.chisquare(counts, [10_000, 6000, 4000]).pvalue > 0.01


def test_places_are_uniform() -> None:
    places = [hash_position("layer", "one", user) for user in USERS]
    assert stats.kstest(places, "uniform").pvalue > 0.01
    assert 0 <= min(places) < max(places) < 1


def test_a_user_keeps_the_variant_whatever_else_is_configured() -> None:
    alone = Experiments([MIX], LIMITS, STRATEGIES)
    other = Experiment("k", variants(control={}, many={"k": 20}), share=0.5)
    both = Experiments([other, MIX], LIMITS, STRATEGIES)
    for user in USERS[:500]:
        assert assigned(alone, user) == assigned(alone, user)
        assert assigned(both, user)["mix"] == assigned(alone, user)["mix"]


def test_experiments_of_a_layer_have_no_user_in_common_and_share_as_told() -> None:
    first = Experiment("one", variants(a={}, b={"mix": 0.1}), layer="ranking", share=0.3)
    second = Experiment("two", variants(a={}, b={"mix": 0.2}), layer="ranking", share=0.6)
    experiments = Experiments([first, second], LIMITS, STRATEGIES)
    found = [assigned(experiments, user) for user in USERS]
    assert all(len(of) <= 1 for of in found)
    shares = [sum(name in of for of in found) / len(USERS) for name in ("one", "two")]
    # Four standard errors.
    assert shares == pytest.approx([0.3, 0.6], abs=0.014)


def test_layers_are_independent_of_each_other() -> None:
    other = Experiment("k", variants(control={}, many={"k": 20}), share=0.5)
    experiments = Experiments([MIX, other], LIMITS, STRATEGIES)
    table = np.zeros((2, 3), np.int64)
    for user in USERS:
        of = assigned(experiments, user)
        table[int(of["mix"] == "session"), ["control", "many", None].index(of.get("k"))] += 1
    assert stats.chi2_contingency(table).pvalue > 0.01


def test_the_options_of_a_variant_replace_those_of_the_request() -> None:
    options = {"k": 3, "session": [{"text": "space"}], "on_cold": "error"}
    only = Experiment("all", [Variant("a", options), Variant("b", options)])
    found = Experiments([only], LIMITS, STRATEGIES).assign(RecommendRequest(user_id="ann", k=7, mix=0.25), ANN)
    assert found.request == RecommendRequest(
        user_id="ann", k=3, mix=0.25, session=[Behaviour(text="space")], on_cold="error"
    )
    assert [of.forced for of in found.variants] == [False]
    assert found.variants[0].version == version_of(only)


def test_any_option_of_a_request_can_be_set() -> None:
    options = {
        "strategy": "blend",
        "where": {"op": "eq", "attribute": "genre", "value": "Drama"},
        "slate": {"diversify": 0.3},
        "explore": {"epsilon": 0.5},
    }
    only = Experiment("all", [Variant("a", options), Variant("b", options)])
    found = Experiments([only], LIMITS, STRATEGIES).assign(REQUEST, ANN).request
    assert found == msgspec.convert({"user_id": "ann", **options}, RecommendRequest)
    with pytest.raises(ConfigError, match="diversify"):
        Experiments([pair({"slate": {"diversify": 3}})], LIMITS, STRATEGIES)


@pytest.mark.parametrize("variant", ["control", "session"])
def test_a_forced_variant_takes_the_place_of_the_assigned_one(variant: str) -> None:
    experiments = Experiments([MIX], LIMITS, STRATEGIES)
    for user in USERS[:50]:
        found = experiments.assign(RecommendRequest(user_id="ann", variants={"mix": variant}), user)
        assert [(of.experiment, of.variant, of.forced) for of in found.variants] == [("mix", variant, True)]
        assert found.request.mix == (0.9 if variant == "session" else 0.5)


def test_a_forced_experiment_takes_the_layer_from_the_others() -> None:
    first = Experiment("one", variants(a={}, b={}), layer="ranking", share=0.5)
    second = Experiment("two", variants(a={}, b={}), layer="ranking", share=0.5)
    experiments = Experiments([first, second, MIX], LIMITS, STRATEGIES)
    for user in USERS[:50]:
        found = experiments.assign(RecommendRequest(user_id="ann", variants={"two": "b"}), user)
        assert {of.experiment for of in found.variants} == {"two", "mix"}
    with pytest.raises(RequestError, match="two experiments of one layer"):
        experiments.assign(RecommendRequest(user_id="ann", variants={"one": "a", "two": "b"}), ANN)


@pytest.mark.parametrize("forced", [{"secret": "a"}, {"mix": "secret"}])
def test_what_is_forced_must_be_there_and_is_not_quoted(forced: dict[str, str]) -> None:
    with pytest.raises(RequestError, match="mix: control, session") as refused:
        Experiments([MIX], LIMITS, STRATEGIES).assign(RecommendRequest(user_id="ann", variants=forced), ANN)
    assert "secret" not in str(refused.value)
    with pytest.raises(RequestError, match="none runs"):
        Experiments([], LIMITS, STRATEGIES).assign(RecommendRequest(user_id="ann", variants=forced), ANN)


def pair(options: dict[str, Any], **more: Any) -> Experiment:
    return Experiment(more.pop("name", "one"), variants(a={}, b=options), **more)


BAD: list[tuple[list[Experiment], str]] = [
    ([MIX, MIX], "'mix' is there twice"),
    ([Experiment("one", [Variant("a"), Variant("a")])], "same name"),
    ([pair({}, layer="x", share=0.6), pair({}, name="two", layer="x", share=0.5)], "add up to 1.1"),
    ([pair({"mix": 0.1}), MIX], "both set 'mix'"),
    ([pair({"mixx": 0.1})], "mixx"),
    ([pair({"mix": 2})], "mix"),
    ([pair({"user_id": "bob"})], "'user_id' cannot be set"),
    ([pair({"variants": {}})], "'variants' cannot be set"),
    ([pair({"exclude": ["a", "b", "c"]})], "exclude allows 2"),
]


@pytest.mark.parametrize(("configured", "said"), BAD, ids=[said for _, said in BAD])
def test_what_does_not_fit_is_refused_when_it_is_configured(configured: list[Experiment], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Experiments(configured, LIMITS, STRATEGIES)


@given(weights=st.lists(st.floats(0.001, 1000), min_size=2, max_size=10))
def test_any_weights_give_every_user_one_variant(weights: list[float]) -> None:
    experiment = Experiment("one", [Variant(f"v{n}", weight=weight) for n, weight in enumerate(weights)])
    experiments = Experiments([experiment], LIMITS, STRATEGIES)
    assert all(len(assigned(experiments, user)) == 1 for user in USERS[:20])


def test_a_version_changes_with_weights_and_options_and_not_with_the_share() -> None:
    versions = {
        version_of(MIX),
        version_of(msgspec.structs.replace(MIX, variants=variants(control={}, session={"mix": 0.8}))),
        version_of(msgspec.structs.replace(MIX, variants=[Variant("control"), Variant("session", {"mix": 0.9}, 2)])),
    }
    assert len(versions) == 3
    assert version_of(msgspec.structs.replace(MIX, share=0.1, layer="x")) == version_of(MIX)
