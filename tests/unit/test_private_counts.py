"""Private counts of what is popular: the distribution of the noise, the bound of a user, and one draw for one log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.config.counts import PopularPrivacy
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import UserSettings
from recserve_server_ext.counts.counter import LogCounter
from recserve_server_ext.counts.counts import LogColumns
from recserve_server_ext.counts.popularity import Ranking
from recserve_server_ext.counts.private import geometric_noise, private_ranking
from recserve_server_ext.interactions.keys import UserKeys
from recserve_server_ext.interactions.store import InteractionStore
from support.events import NOW, PSEUDONYMS, event

PRIVACY = PopularPrivacy(epsilon=1.0, items=3, fewest=30)
MONTH_US = 30 * 86_400 * 10**6


def counted_users(ranking: Ranking) -> dict[str, int]:
    return dict(zip(ranking.items, ranking.reasons()[0].tolist(), strict=True))


def log_of(users: int, items: int, each: int, *, seed: int = 5) -> LogColumns:
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(1, users + 1), each)
    item = rng.integers(items, size=users * each)
    return LogColumns(user, item, np.arange(users * each), [f"i{n}" for n in range(items)], {})


@pytest.mark.parametrize("ratio", [0.2, PRIVACY.ratio, 0.95])
def test_the_noise_has_the_distribution_of_the_formula(ratio: float) -> None:
    count = 200_000
    noise = geometric_noise(np.random.default_rng(11), ratio, count)
    most = 0
    while count * (1 - ratio) / (1 + ratio) * ratio ** (most + 1) >= 20:
        most += 1
    values = np.arange(-most, most + 1)
    expected = count * (1 - ratio) / (1 + ratio) * ratio ** np.abs(values)
    # The tails beyond are one class each: sum of a^z from most + 1 on.
    tail = count * ratio ** (most + 1) / (1 + ratio)
    found = np.array([(noise < -most).sum(), *(np.count_nonzero(noise == z) for z in values), (noise > most).sum()])
    expected = np.array([tail, *expected, tail])
    chi_square = float(((found - expected) ** 2 / expected).sum())
    degrees = len(expected) - 1
    # Mean and standard deviation of chi-square; 4 deviations are passed by chance less than once in a thousand.
    assert chi_square < degrees + 4 * np.sqrt(2 * degrees)


def test_zero_has_its_probability_and_not_that_of_another_ratio() -> None:
    noise = geometric_noise(np.random.default_rng(11), 0.5, 200_000)
    assert abs(np.count_nonzero(noise == 0) / 200_000 - 1 / 3) < 0.005
    assert abs(np.count_nonzero(noise == 0) / 200_000 - 0.6 / 1.4) > 0.05


def test_a_user_counts_with_the_newest_items_only() -> None:
    quiet = msgspec.structs.replace(PRIVACY, epsilon=100.0, fewest=2)  # noise of 0, but for e^-25
    log = LogColumns(
        np.array([1, 1, 1, 1, 1, 2, 2, 2]), np.array([0, 1, 2, 3, 3, 3, 2, 0]),
        np.array([1, 2, 3, 4, 5, 6, 7, 0]), ["a", "b", "c", "d"], {},
    )  # fmt: skip
    found = private_ranking(log, 0, quiet, PSEUDONYMS.sign)
    # User 1: d, c, b; user 2: c, d, a.
    assert counted_users(found) == {"c": 2, "d": 2}
    assert found.shares("day").tolist() == [1, 1]  # one window is counted, whichever is asked for
    assert found.reasons("day")[1] == [MONTH_US / 10**6] * 2
    assert private_ranking(log, MONTH_US + 6, quiet, PSEUDONYMS.sign).items == []


def test_the_same_log_has_the_same_noise_and_another_secret_another() -> None:
    log = log_of(2000, 20, 5)
    first = private_ranking(log, 0, PRIVACY, PSEUDONYMS.sign)
    again = private_ranking(log, 0, PRIVACY, PSEUDONYMS.sign)
    assert first.items == again.items
    assert counted_users(first) == counted_users(again)
    other = private_ranking(log, 0, PRIVACY, PSEUDONYMS.with_key(b"x" * 32).sign)
    assert counted_users(first) != counted_users(other)
    changed = private_ranking(log_of(2001, 20, 5), 0, PRIVACY, PSEUDONYMS.sign)
    assert counted_users(first) != counted_users(changed)


def test_numbers_are_near_the_truth_and_never_small() -> None:
    log = log_of(3000, 200, 3)
    truth = np.bincount(np.unique(log.user * 200 + log.item) % 200, minlength=200)
    found = private_ranking(log, 0, PRIVACY, PSEUDONYMS.sign)
    users = np.array(list(counted_users(found).values()))
    error = np.array([of - truth[int(name[1:])] for name, of in counted_users(found).items()])
    assert np.abs(error).max() > 0
    # Standard deviation of the noise: sqrt(2 a) / (1 - a) = 5.6; the cut at 30 leaves what is above it.
    assert np.abs(error).mean() < 10
    assert users.min() >= PRIVACY.fewest
    assert (np.diff(users) <= 0).all()
    assert private_ranking(log_of(5, 3, 2), 0, PRIVACY, PSEUDONYMS.sign).items == []
    assert private_ranking(log_of(0, 0, 0), 0, PRIVACY, PSEUDONYMS.sign).items == []


def test_delta_is_the_chance_that_an_item_of_one_user_appears() -> None:
    loose = PopularPrivacy(epsilon=1.0, items=1, fewest=5)
    noise = geometric_noise(np.random.default_rng(3), loose.ratio, 400_000)
    assert np.mean(1 + noise >= loose.fewest) == pytest.approx(loose.delta, rel=0.05)
    assert PopularPrivacy().delta < 1e-6


@pytest.fixture
def store(tmp_path: Path) -> Iterator[InteractionStore]:
    keys = UserKeys(lambda: PSEUDONYMS)
    with InteractionStore(tmp_path / "i.db", create=True, clock=lambda: NOW, keys=keys) as store:
        keys.settle(store.database)
        store.record([event(PSEUDONYMS.of(f"u{n}"), item=f"i{n % 2}", context={"d": "x"}) for n in range(200)])
        yield store


def test_the_counter_publishes_noisy_numbers_where_it_is_told_to(store: InteractionStore) -> None:
    def counted(privacy: PopularPrivacy | None) -> LogCounter:
        counter = LogCounter(
            lambda: store, HistoryRules(), BlendRules(), every_s=1e9, contexts=("d",),
            clock=lambda: NOW, privacy=privacy,
        )  # fmt: skip
        counter.count()
        return counter

    plain, private, again = (counted(privacy).counts() for privacy in (None, PRIVACY, PRIVACY))
    assert list(counted_users(plain.everybody).values()) == [100, 100]
    assert ("d", "x") in plain.of_context
    assert private.of_context == {}
    assert counted_users(private.everybody) == counted_users(again.everybody) != counted_users(plain.everybody)


def test_it_is_a_setting_of_users_and_off_by_default() -> None:
    assert UserSettings().popular_privacy is None
    found = msgspec.toml.decode(b"[popular_privacy]\nepsilon = 0.5\n", type=UserSettings).popular_privacy
    assert found == PopularPrivacy(epsilon=0.5)
    with pytest.raises(msgspec.ValidationError):
        msgspec.toml.decode(b"[popular_privacy]\nepsilon = 0\n", type=UserSettings)
