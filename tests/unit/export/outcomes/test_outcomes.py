"""What came of logged answers, on SQLite and PostgreSQL: what joins and what does not, the report, the training set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from recserve_client.contract import AssignedVariant, Slate
from recserve_export.cli.outcomes import app
from recserve_export.errors import ExportError
from recserve_export.outcomes.export import export_outcomes, format_of
from recserve_export.outcomes.outcomes import OutcomeRules
from recserve_export.outcomes.proportions import two_proportions, wilson
from recserve_export.outcomes.report import OutcomeReport, report
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.interactions.store import InteractionStore
from support.answers import by_user, log_of, plain
from support.events import ANN, BOB, NOW, PSEUDONYMS, event

MIX = Experiment("mix", [Variant("control"), Variant("session")])
#: When the answers of these tests were given.
GIVEN = NOW - 10_000
RULES = OutcomeRules(window_s=3600)


def variant(name: str, *, forced: bool = False) -> AssignedVariant:
    return AssignedVariant("mix", name, version_of(MIX), forced)


@pytest.fixture
def store(store_place: Path | str) -> Iterator[InteractionStore]:
    with InteractionStore(store_place, create=True, clock=lambda: NOW) as store:
        yield store


def logged(store: InteractionStore, *lines: tuple[Slate, str | None], now: float = GIVEN) -> None:
    log = log_of(store, now=now, served=[MIX], plain=1.0)
    for answer, user in lines:
        log.offer(answer, user)
    log.close()
    assert log.counts.logged == len(lines)


def named(user: str, answer: str, item: str | None, type: str = "click", after: float = 60, **more: Any) -> Any:
    return event(user, item, type=type, recommendation_id=answer, timestamp=GIVEN + after, **more)


def reported(store: InteractionStore, **rules: Any) -> OutcomeReport:
    return report(store.database, OutcomeRules(**{"window_s": 3600, **rules}), now_s=NOW, lift=0.1)


def test_only_what_was_recommended_to_this_user_and_in_time_joins(store: InteractionStore) -> None:
    logged(
        store,
        (by_user("r1", ["i1", "i2", "i3"]), ANN),
        (plain("r2", ["i1"]), None),
        (by_user("r3", ["i1"], variant("control", forced=True)), ANN),
    )
    done = [
        named(ANN, "r1", "i2"),
        named(ANN, "r1", "i2", after=90),  # the same again
        named(ANN, "r1", "i2", "view"),  # another type of click
        named(ANN, "r1", "i2", "purchase"),
        named(ANN, "r1", "i1", after=4000),
        named(ANN, "r1", "i1", after=-400),
        named(ANN, "r1", "i9"),
        named(BOB, "r1", "i3"),
        named(ANN, "made-up", "i1"),
        named(ANN, "r1", None, text="i1", type="search"),
        named(ANN, "r1", "i3", "cart"),
        named(BOB, "r2", "i1"),
        named(ANN, "r3", "i1"),
        event(ANN, "i1", type="click"),
    ]
    assert {answer.status for answer in store.record(done)} == {"recorded"}
    found = reported(store)
    assert found.named.__struct_fields__ == (
        "joined", "repeated", "late", "early", "unknown", "not_in_slate", "other_user", "no_item", "other_type",
        "forced",
    )  # fmt: skip
    assert [getattr(found.named, name) for name in found.named.__struct_fields__] == [3, 2, 1, 1, 1, 1, 1, 1, 1, 1]
    assert (found.answers, found.forced, found.open) == (2, 1, 0)
    text, nobody = found.strategies
    assert (text.name, text.answers, text.impressions, text.clicks.count, text.conversions.count) == (
        "text", 1, 3, 1, 1,
    )  # fmt: skip
    assert (text.clicks.rate, text.clicks.low, text.clicks.high) == (1 / 3, *wilson(1, 3))
    assert (nobody.name, nobody.impressions, nobody.clicks.count) == ("text, no user", 1, 1)
    assert [(g.name, g.impressions, g.clicks.count) for g in found.positions] == [("1", 2, 1), ("2", 1, 1), ("3", 1, 0)]


def test_a_clock_that_is_a_little_behind_still_joins(store: InteractionStore) -> None:
    logged(store, (by_user("r1", ["i1"]), ANN))
    store.record([named(ANN, "r1", "i1", after=-250)])
    assert (reported(store).named.joined, reported(store).named.early) == (1, 0)


def test_what_counts_is_chosen(store: InteractionStore) -> None:
    logged(store, (by_user("r1", ["i1", "i2"]), ANN))
    logged(store, (by_user("r2", ["i1"]), ANN), now=NOW - 60)
    store.record([named(ANN, "r1", "i1", "rating", value=5), named(ANN, "r1", "i2", after=3000)])
    assert reported(store).open == 1
    chosen = reported(store, clicks=frozenset({"rating"}), conversions=frozenset({"rating"}))
    assert (chosen.named.joined, chosen.named.other_type) == (1, 1)
    assert (chosen.strategies[0].clicks.count, chosen.strategies[0].conversions.count) == (1, 1)
    assert reported(store, window_s=100).named.late == 1
    later = reported(store, start_us=round((NOW - 100) * 1e6))
    assert (later.answers, later.named.joined, later.named.late) == (1, 0, 0)
    assert reported(store, end_us=round((NOW - 100) * 1e6)).answers == 1


def test_an_empty_log_is_reported(store: InteractionStore) -> None:
    found = reported(store)
    assert (found.answers, found.strategies, found.positions, found.experiments) == (0, [], [], [])
    assert (found.periods, found.period_s) == ([], 3600)


DAY_S = 86_400


@pytest.mark.parametrize(
    ("apart_s", "period_s"),
    [(3600, 3600), (60 * 3600, 3600), (3 * DAY_S, DAY_S), (61 * DAY_S, 7 * DAY_S), (800 * DAY_S, 28 * DAY_S)],
)
def test_rates_over_time(store: InteractionStore, apart_s: int, period_s: int) -> None:
    early = GIVEN - apart_s
    logged(store, (by_user("r1", ["i1", "i2"], variant("control")), ANN), now=early)
    logged(store, (by_user("r2", ["i1"], variant("session")), ANN), (plain("r3", ["i1"]), None))
    store.record([named(ANN, "r1", "i2", after=60 - apart_s), named(ANN, "r2", "i1", "purchase")])
    found = reported(store)
    assert found.period_s == period_s
    assert [period.start_s for period in found.periods] == [int(at // period_s) * period_s for at in (early, GIVEN)]
    first, last = found.periods
    (text,) = first.strategies
    assert (text.name, text.impressions, text.clicks.count, text.conversions.count) == ("text", 2, 1, 0)
    assert (text.clicks.low, text.clicks.high) == wilson(1, 2)
    assert [(group.name, group.clicks.count) for group in first.positions] == [("1", 0), ("2", 1)]
    assert [group.name.rpartition(" ")[2] for group in (*first.variants, *last.variants)] == ["control", "session"]
    assert [(group.name, group.impressions) for group in last.strategies] == [("text", 1), ("text, no user", 1)]
    # Together they are the whole.
    for field in ("strategies", "positions", "variants"):
        parts = [group for period in found.periods for group in getattr(period, field)]
        for whole in getattr(found, field):
            of = [group for group in parts if group.name == whole.name]
            assert sum(group.impressions for group in of) == whole.impressions
            assert sum(group.clicks.count for group in of) == whole.clicks.count


def simulated(store: InteractionStore, *, users: int, rates: dict[str, float], skew: float = 0.5) -> dict[str, Any]:
    """Users who each get one to three answers of five items; who clicks, clicks the first item of the first answer."""
    rng = np.random.default_rng(6)
    lines: list[tuple[Slate, str | None]] = []
    clicks = []
    counts = {name: {"users": 0, "clicked": 0, "impressions": 0} for name in rates}
    for n in range(users):
        user, name = PSEUDONYMS.of(f"simulated {n}"), "control" if rng.random() < skew else "session"
        answers = int(rng.integers(1, 4))
        lines += [(by_user(f"{n}-{m}", [f"i{i}" for i in range(5)], variant(name)), user) for m in range(answers)]
        of = counts[name]
        of["users"] += 1
        of["impressions"] += 5 * answers
        if rng.random() < rates[name]:
            of["clicked"] += 1
            clicks.append(named(user, f"{n}-0", "i0"))
    logged(store, *lines)
    store.record(clicks)
    return counts


def test_an_experiment_is_reported_by_user(store: InteractionStore) -> None:
    counts = simulated(store, users=600, rates={"control": 0.2, "session": 0.4})
    (found,) = reported(store).experiments
    assert (found.name, found.version, found.moved, found.srm_alarm) == ("mix", version_of(MIX), 0, False)
    for of in found.variants:
        expected = counts[of.name]
        assert (of.users, of.clicked, of.clicks, of.converted) == (
            expected["users"], expected["clicked"], expected["clicked"], 0,
        )  # fmt: skip
        assert of.impressions == expected["impressions"]
    clicked, converted, per_impression = found.comparisons
    a, b = (counts[name] for name in ("control", "session"))
    test = two_proportions((a["clicked"], a["users"]), (b["clicked"], b["users"]))
    assert (clicked.difference, clicked.z, clicked.p) == (test.value, test.z, test.p)
    assert clicked.p is not None
    assert clicked.p < 0.001
    assert clicked.power is not None
    assert clicked.detectable is not None
    assert clicked.power < 0.5 < clicked.detectable * 10
    assert (converted.p, converted.power) == (None, None)  # nobody converted
    assert per_impression.z == pytest.approx(clicked.z, rel=0.2)
    assert [group.name for group in reported(store).variants] == [
        f"mix@{version_of(MIX)} {name}" for name in ("control", "session")
    ]


def test_a_split_that_is_not_as_configured_raises_the_alarm(store: InteractionStore) -> None:
    simulated(store, users=600, rates={"control": 0.2, "session": 0.2}, skew=0.4)
    (found,) = reported(store).experiments
    assert found.srm_alarm
    assert found.srm_p < 0.001


def test_a_user_of_two_variants_is_counted(store: InteractionStore) -> None:
    logged(store, (by_user("r1", ["i1"], variant("control")), ANN), (by_user("r2", ["i1"], variant("session")), ANN))
    assert reported(store).experiments[0].moved == 1


ROWS = [
    ("r1", ANN, "i1", 1, False, False),
    ("r1", ANN, "i2", 2, True, True),
    ("r2", None, "i1", 1, False, False),
]


@pytest.mark.parametrize("name", ["set.jsonl", "set.parquet"])
def test_the_training_set_has_a_row_for_every_item(store: InteractionStore, tmp_path: Path, name: str) -> None:
    logged(store, (by_user("r1", ["i1", "i2"], variant("control")), ANN), (plain("r2", ["i1"]), None))
    logged(store, (by_user("r3", ["i1"], variant("control", forced=True)), ANN))
    store.record([named(ANN, "r1", "i2"), named(ANN, "r1", "i2", "like"), named(BOB, "r1", "i1")])
    path = tmp_path / name
    assert export_outcomes(store.database, path, RULES, format_of(path)) == 3
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        import pyarrow.parquet

        rows = pyarrow.parquet.read_table(path).to_pylist()
    fields = ("recommendation_id", "user", "item", "position", "clicked", "converted")
    assert [tuple(row[field] for field in fields) for row in rows] == ROWS
    assert {(row["propensity"], row["sampling"], row["timestamp"]) for row in rows} == {(1.0, 1.0, GIVEN)}
    assert rows[0]["variants"] == f'{{"mix@{version_of(MIX)}":"control"}}'


def test_a_training_set_that_cannot_be_written_says_so(store: InteractionStore, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="none"):
        export_outcomes(store.database, tmp_path / "none" / "set.jsonl", RULES, "jsonl")
    with pytest.raises(ExportError, match="tells no format"):
        format_of(tmp_path / "set.txt")


def run(*words: str) -> Any:
    return CliRunner().invoke(app, list(words))


def test_the_commands_report_draw_and_export(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with InteractionStore(home / "interactions.db", create=True, clock=lambda: NOW) as store:
        simulated(store, users=300, rates={"control": 0.2, "session": 0.5})
        logged(store, (by_user("mine", ["i1"]), ANN))
        store.record([named(ANN, "mine", "i1"), named(ANN, "forged", "i1"), named(ANN, "mine", "i7")])
    shown = run("report", "--home", str(home), "--plot", str(tmp_path / "plot.png"))
    assert shown.exit_code == 0, shown.output
    assert max(map(len, shown.stdout.splitlines())) <= 100
    assert "\\" not in shown.stdout  # an escaped line break
    for said in ("1 unknown, 1 not in slate", "experiment mix", "two-proportion z-test", "chi-square", "Wilson"):
        assert said in shown.stdout
    assert (tmp_path / "plot.png").stat().st_size > 5000
    printed = json.loads(run("report", "--home", str(home), "--json", "--click", "view").stdout)
    assert printed["strategies"][0]["clicks"]["count"] == 0
    exported = run("export", str(tmp_path / "set.parquet"), "--home", str(home))
    assert f"{printed['strategies'][0]['impressions']:,} recommended items" in exported.stdout
    assert "no erasure reaches exported files" in exported.stderr
    assert run("report", "--home", str(tmp_path / "nowhere")).exit_code == 1
    assert run("report", "--home", str(home), "--plot", str(tmp_path / "no" / "plot.png")).exit_code == 2
