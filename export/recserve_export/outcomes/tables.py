"""The report of outcomes as lines and tables, at most 100 columns wide, and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from recserve_export.outcomes.experiments import Comparison, ExperimentReport
from recserve_export.outcomes.groups import Group, Rate
from recserve_export.outcomes.report import OutcomeReport

#: Positions in the table; the others are in the JSON.
_POSITIONS: Final = 10
_NAME_WIDTH: Final = 40
_RATES: Final = ("#4269d0", "#efb118")


def shown(report: OutcomeReport) -> Iterator[RenderableType]:
    """What is printed."""
    yield _head(report)
    counts = {name.replace("_", " "): count for name, count in msgspec.structs.asdict(report.named).items() if count}
    if counts:
        yield "interactions that name an answer: " + ", ".join(f"{count:,} {name}" for name, count in counts.items())
    for title, groups in (
        ("strategy", report.strategies),
        ("position", report.positions[:_POSITIONS]),
        ("variant", report.variants),
    ):
        if groups:
            yield ""
            yield groups_table(title, groups)
    if report.answers:
        yield "In brackets: Wilson intervals, impressions taken as independent."
    for experiment in report.experiments:
        yield from _experiment(experiment, report.lift)


def groups_table(title: str, groups: Sequence[Group]) -> Table:
    """Impressions and rates, a group a row."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(title, overflow="fold", max_width=_NAME_WIDTH)
    for name in ("impressions", "clicks", "CTR (95%)", "conversions", "rate (95%)"):
        table.add_column(name, justify="right", no_wrap=True)
    for group in groups:
        table.add_row(
            Text(group.name),
            f"{group.impressions:,}",
            f"{group.clicks.count:,}",
            _interval(group.clicks),
            f"{group.conversions.count:,}",
            _interval(group.conversions),
        )
    return table


def draw(report: OutcomeReport, path: Path) -> None:
    """Plot the rates by position, by strategy and by variant, with their intervals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    parts = [("position", report.positions), ("strategy", report.strategies), ("variant", report.variants)]
    parts = [(title, groups) for title, groups in parts if groups]
    figure, axes = plt.subplots(1, max(1, len(parts)), figsize=(4 * max(1, len(parts)), 4), layout="constrained")
    for (title, groups), part in zip(parts, [axes] if len(parts) < 2 else axes, strict=True):
        places = range(len(groups))
        for shift, colour, name in ((-0.1, _RATES[0], "clicks"), (0.1, _RATES[1], "conversions")):
            rates: list[Rate] = [getattr(group, name) for group in groups]
            middles = [rate.rate or 0.0 for rate in rates]
            below = [middle - rate.low for middle, rate in zip(middles, rates, strict=True)]
            above = [rate.high - middle for middle, rate in zip(middles, rates, strict=True)]
            at = [place + shift for place in places]
            part.errorbar(at, middles, yerr=[below, above], fmt="o", color=colour, capsize=3, label=name)
        part.set_xticks(list(places), [group.name.replace(" ", "\n") for group in groups])
        part.set(xlabel=title, ylabel="part of impressions")
        # Otherwise a single group would have its two rates at the edges.
        part.set_xlim(-0.5, len(groups) - 0.5)
        part.set_ylim(bottom=0)
        part.grid(visible=True, axis="y", alpha=0.3)
    if parts:
        figure.axes[0].legend()
    figure.suptitle(f"{_answers(report.answers)}; 95% Wilson intervals")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _head(report: OutcomeReport) -> str:
    parts = [_answers(report.answers), f"outcomes within {report.window_s / 3600:g} h"]
    if report.open:
        parts.append(f"younger than that: {_answers(report.open)}")
    if report.forced:
        parts.append(f"left out, with variants that were asked for: {_answers(report.forced)}")
    return "; ".join(parts)


def _answers(count: int) -> str:
    return f"{count:,} answer" if count == 1 else f"{count:,} answers"


def _experiment(experiment: ExperimentReport, lift: float) -> Iterator[RenderableType]:
    yield f"\nexperiment {experiment.name}, version {experiment.version}, by user:"
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("variant")
    for name in ("weight", "users", "who clicked", "who converted", "impressions", "clicks"):
        table.add_column(name, justify="right", no_wrap=True)
    for of in experiment.variants:
        clicked, converted = f"{of.clicked:,} {_part(of.clicked, of.users)}", _part(of.converted, of.users)
        counts = (f"{of.users:,}", clicked, f"{of.converted:,} {converted}", f"{of.impressions:,}", f"{of.clicks:,}")
        table.add_row(of.name, f"{of.weight:g}", *counts)
    yield table
    yield ""
    yield _comparisons(experiment.comparisons, lift)
    yield "users: two-proportion z-test (intervals: Newcombe); clicks per impression: delta method over users"
    split = f"split of the users: chi-square test, p = {experiment.srm_p:.3g}"
    if experiment.srm_alarm:
        split = f"ALARM, sample ratio mismatch: {split}; find the cause, and trust no comparison"
    yield split
    if experiment.moved:
        yield f"ALARM: {experiment.moved:,} users were answered with two variants"


def _comparisons(comparisons: Sequence[Comparison], lift: float) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("variant", "measure", "difference", "95%", "z", "p", f"power {lift:+.0%}", "80% finds"):
        table.add_column(name, justify="left" if name in ("variant", "measure") else "right", no_wrap=True)
    for of in comparisons:
        interval = "" if of.low is None or of.high is None else f"{of.low:+.4f} to {of.high:+.4f}"
        table.add_row(
            of.variant,
            of.measure,
            _number(of.difference, "+.4f"),
            interval,
            _number(of.z, ".2f"),
            _number(of.p, ".3g"),
            _number(of.power, ".0%"),
            _number(of.detectable, "+.4f"),
        )
    return table


def _interval(rate: Rate) -> str:
    return "" if rate.rate is None else f"{rate.rate:.2%} ({100 * rate.low:.2f}-{100 * rate.high:.2f})"


def _part(count: int, users: int) -> str:
    return f"({count / users:.1%})" if users else ""


def _number(number: float | None, form: str) -> str:
    return "" if number is None else format(number, form)
