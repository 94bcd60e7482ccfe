"""Impressions and clicks from the log of answers: those of `recserve outcomes report`, and bounded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import sqlalchemy as sa

from recserve_client.contract import AssignedVariant
from recserve_export.outcomes.outcomes import OutcomeRules, join
from recserve_server_ext.config.counts import ClickPrior, CountSettings
from recserve_server_ext.config.interactions import InteractionLimits
from recserve_server_ext.counts import clicks as click_counts
from recserve_server_ext.counts.clicks import clicks_by_strategy, read_clicks
from recserve_server_ext.counts.counts import ClickCounts
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.interactions.tables import answers
from support.answers import by_user, log_of, plain
from support.events import ANN, BOB, NOW, event

FORCED = AssignedVariant("mix", "session", "1", forced=True)
PRIOR = ClickPrior(2.0, 9.0)
#: All that can become of an interaction is among those of the test.
KINDS = ("joined", "repeated", "late", "early", "unknown", "not_in_slate", "other_user", "other_type", "forced")


@pytest.fixture
def store(store_place: Path | str) -> Iterator[InteractionStore]:
    with InteractionStore(store_place, InteractionLimits(), create=True, clock=lambda: NOW) as store:
        yield store


def counted(found: ClickCounts) -> dict[str, tuple[int, int]]:
    return {
        item: (shown, clicked)
        for item, shown, clicked in zip(found.items, found.shown.tolist(), found.clicked.tolist(), strict=True)
    }


def logged(store: InteractionStore, number: int) -> None:
    rng = np.random.default_rng(3)
    log = log_of(store, now=NOW - 100_000, plain=1.0)
    for n in range(number):
        items = [f"i{row}" for row in rng.permutation(12)[:4]]
        if n % 5 == 0:
            log.offer(plain(f"r{n}", items), None)
        else:
            variants = [FORCED] if n % 7 == 0 else []
            log.offer(by_user(f"r{n}", items, *variants), [ANN, BOB][n % 2])
    log.flush()
    log.close()


def test_it_counts_what_the_report_joins(store: InteractionStore) -> None:
    logged(store, 40)
    rng = np.random.default_rng(4)
    types = ["view", "click", "listen", "like", "purchase"]
    store.record(
        [
            event(
                str(rng.choice([ANN, BOB])), item=f"i{rng.integers(14)}", type=str(rng.choice(types)),
                recommendation_id=f"r{rng.integers(44)}", event_id=f"e{n}",
                timestamp=NOW - 100_000 + float(rng.choice([-400, -200, 10, 80_000, 90_000])),
            )
            for n in range(1500)
        ]
    )  # fmt: skip
    shown: Counter[str] = Counter()
    clicked: Counter[str] = Counter()
    with store.database.reading() as connection:
        joined = join(connection, OutcomeRules(conversions=frozenset()))
        slates = {}
        for row in connection.execute(sa.select(answers).where(sa.not_(answers.c.forced))):
            slates[row.number] = msgspec.json.decode(row.recommended, type=list[str])
            shown.update(slates[row.number])
    for answered, outcomes in joined.of.items():
        clicked.update(slates[answered.number][place] for place in outcomes)
    assert all(msgspec.structs.asdict(joined.named)[name] for name in KINDS)
    found = read_clicks(store, PRIOR)
    assert found.prior == PRIOR
    assert counted(found) == {item: (shown[item], clicked[item]) for item in shown}
    assert sum(clicked.values()) > 50


def test_of_an_empty_log_nothing_is_counted(store: InteractionStore) -> None:
    found = read_clicks(store, PRIOR)
    assert (counted(found), found.prior) == ({}, PRIOR)
    assert counted(ClickCounts()) == {}


@pytest.mark.parametrize(("bound", "value", "kept"), [("_MAX_ANSWERS", 6, 6), ("_MAX_IMPRESSIONS", 8, 2)])
def test_the_oldest_are_not_counted_past_a_bound(
    store: InteractionStore, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, kept: int
) -> None:
    log = log_of(store)
    for n in range(20):
        log.offer(by_user(f"r{n}", [f"i{n}", "a", "b", "c"]), ANN)
    log.flush()
    log.close()
    store.record([event(item=f"i{n}", recommendation_id=f"r{n}", timestamp=NOW) for n in range(20)])
    monkeypatch.setattr(click_counts, bound, value)
    monkeypatch.setattr(click_counts, "_CHUNK", 1)
    newest = {f"i{n}": (1, 1) for n in range(20 - kept, 20)}
    assert counted(read_clicks(store, PRIOR)) == newest | dict.fromkeys("abc", (kept, 0))
    monkeypatch.setattr(click_counts, "MAX_INTERACTIONS", 1)
    assert sum(clicked for _, clicked in counted(read_clicks(store, PRIOR)).values()) == 1


def test_recent_clicks_are_those_of_the_strategy_that_recommended(store: InteractionStore) -> None:
    for at, name in ((NOW - 4000, "old"), (NOW - 3000, "new")):
        log = log_of(store, now=at)
        for n in range(6):
            strategy = ("text", "ease", "popular")[n % 3]
            log.offer(by_user(f"{name}{n}", [f"i{n}", "a"], *([FORCED] if n == 5 else []), strategy=strategy), ANN)
        log.flush()
        log.close()
    store.record(
        [event(item="a", recommendation_id=f"{name}{n}", timestamp=NOW) for name in ("old", "new") for n in (0, 1, 5)]
        + [event(item=item, recommendation_id="new0", timestamp=NOW, event_id=item) for item in ("a", "i0", "other")]
        + [event(BOB, item="a", recommendation_id="new3", timestamp=NOW)]
    )
    assert clicks_by_strategy(store, round((NOW - 3600) * 1e6)) == {"text": (4, 2), "ease": (4, 1), "popular": (2, 0)}
    both = clicks_by_strategy(store, round((NOW - 5000) * 1e6))
    assert both == {"text": (8, 3), "ease": (8, 2), "popular": (4, 0)}
    assert clicks_by_strategy(store, round(NOW * 1e6)) == {}


def test_all_recent_clicks_are_those_of_all_items(store: InteractionStore, monkeypatch: pytest.MonkeyPatch) -> None:
    logged(store, 40)
    store.record([event(item=f"i{n % 12}", recommendation_id=f"r{n % 40}", event_id=f"e{n}") for n in range(400)])
    items = counted(read_clicks(store, PRIOR)).values()
    (found,) = clicks_by_strategy(store, 0).values()
    assert found == (sum(shown for shown, _ in items), sum(clicked for _, clicked in items))
    monkeypatch.setattr(click_counts, "_MAX_RECENT", 1)
    ((_, clicked),) = clicks_by_strategy(store, 0).values()
    assert clicked <= 1


def test_the_prior_is_set_and_checked() -> None:
    assert CountSettings().click_prior == ClickPrior(1.0, 20.0)
    assert (
        msgspec.toml.decode(b"click_prior.clicks = 2\nclick_prior.others = 9\n", type=CountSettings).click_prior
        == PRIOR
    )
    with pytest.raises(msgspec.ValidationError, match="clicks"):
        msgspec.toml.decode(b"click_prior.clicks = 0.5\n", type=CountSettings)
