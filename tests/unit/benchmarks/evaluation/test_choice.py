"""What is chosen on validation."""

from __future__ import annotations

import numpy as np

from recserve_benchmarks.evaluation.choice import Trial, Votes, of_activity
from recserve_benchmarks.evaluation.system import Kind, Settings, System, nothing
from recserve_server_ext.strategies.parts.chosen import Choice, Chosen


def system(
    name: str, *grid: Settings, kind: Kind = "strategy", is_personal: bool = True, trainings: str = ""
) -> System:
    learned = frozenset(trainings.split())
    return System(
        name=name,
        kind=kind,
        fit=lambda *_: nothing,
        grid=grid or ({},),
        is_personal=is_personal,
        trainings=learned,
    )


SYSTEMS = [
    system("popularity", kind="baseline", is_personal=False),
    system("item_knn", {"half_life": 1.0}, {"half_life": 2.0}),
    system("popular", is_personal=False),
]
POPULARITY, SHORT, LONG, POPULAR = Trial(0, 0), Trial(1, 0), Trial(1, 1), Trial(2, 0)


def votes(interactions: list[int], **values: list[float]) -> Votes:
    found = Votes(SYSTEMS)
    trials = {"popularity": POPULARITY, "short": SHORT, "long": LONG, "popular": POPULAR}
    found.add(np.array(interactions), {trials[name]: np.array(of) for name, of in values.items()})
    return found


def test_activities_share_all_users() -> None:
    interactions = np.array([0, 1, 5, 6, 1000])
    assert [of_activity(name, interactions).tolist() for name in ("cold", "few", "many")] == [
        [True, False, False, False, False],
        [False, True, True, False, False],
        [False, False, False, True, True],
    ]


def test_settings_are_chosen_by_users_with_a_history() -> None:
    found = votes([0, 3, 9], popularity=[0, 0, 0], short=[1, 0.2, 0.2], long=[0, 0.3, 0.2], popular=[0, 0, 0])
    assert found.tried(1) == [0.2, 0.25]
    assert found.best_settings(1) == 1
    assert found.described(1)[1] == {"settings": {"half_life": 2.0}, "ndcg_at_10": 0.25}


def test_each_activity_gets_its_best_strategy_and_never_a_baseline() -> None:
    n = 40
    found = votes(
        [0] * n + [3] * n + [50] * n,
        popularity=[1.0] * 3 * n,
        short=[0.5] * n + [0.2] * n + [0.4] * n,
        long=[0.5] * n + [0.2] * n + [0.3] * n,
        popular=[0.5] * n + [0.3] * n + [0.1] * n,
    )
    # All answer cold users by popularity: the strategy that needs no history is named.
    assert found.chosen() == Chosen(
        cold=Choice("popular"), few=Choice("popular"), many=Choice("item_knn", {"half_life": 1.0})
    )
    assert found.best_system() == 1


def test_where_few_users_tell_all_of_them_decide() -> None:
    n = 40
    found = votes(
        [3] + [50] * n,
        popularity=[0.0] * (n + 1),
        short=[0.0] + [0.4] * n,
        long=[0.0] + [0.3] * n,
        popular=[1.0] + [0.1] * n,
    )
    assert found.chosen() == Chosen(
        cold=Choice("popular"),
        few=Choice("item_knn", {"half_life": 1.0}),
        many=Choice("item_knn", {"half_life": 1.0}),
    )


def test_an_activity_has_a_strategy_of_its_own_only_for_a_clear_gain() -> None:
    rng, n = np.random.default_rng(1), 60
    noise = (0.3 * rng.standard_normal(n)).tolist()
    zeros = [0.0] * (2 * n)

    def chosen(gain: float) -> Choice | None:
        popular = [0.2 + gain + of for of in noise] + [0.1] * n
        found = votes([3] * n + [50] * n, popularity=zeros, short=[0.2] * n + [0.4] * n, long=zeros, popular=popular)
        return found.chosen().few

    assert chosen(0.01 - float(np.mean(noise))) == Choice("item_knn", {"half_life": 1.0})
    assert chosen(0.10 - float(np.mean(noise))) == Choice("popular")


def test_a_combination_that_is_hardly_below_the_best_is_chosen() -> None:
    systems = [system("lucky", trainings="a"), system("mixed", {"b": 1}, {"b": 2}, trainings="a b c")]
    rng, n = np.random.default_rng(2), 80
    noise = 0.2 * rng.standard_normal(n)
    noise -= noise.mean()

    def chosen(lag: float) -> Choice | None:
        found = Votes(systems)
        of_mixed = {Trial(1, 0): 0.5 - lag + noise, Trial(1, 1): 0.5 - lag + noise - 0.001}
        found.add(np.full(n, 9), {Trial(0, 0): np.full(n, 0.5), **of_mixed})
        return found.chosen().many

    error = 0.2 / np.sqrt(n)
    assert chosen(0.5 * error) == Choice("mixed", {"b": 1})
    assert chosen(2.0 * error) == Choice("lucky")


def test_nothing_is_chosen_without_validation() -> None:
    assert Votes(SYSTEMS).chosen() == Chosen()
    assert Votes(SYSTEMS).best_settings(1) == 0
    assert Votes(SYSTEMS).best_system() is None


def test_later_parts_add_to_the_earlier_ones() -> None:
    found = votes([9], popularity=[0], short=[0.9], long=[0.1], popular=[0])
    assert found.best_settings(1) == 0
    found.add(np.full(3, 9), {POPULARITY: np.zeros(3), SHORT: np.zeros(3), LONG: np.ones(3), POPULAR: np.zeros(3)})
    assert found.best_settings(1) == 1
