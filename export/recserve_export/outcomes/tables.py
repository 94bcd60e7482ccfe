"""Report of outcomes as lines and tables, at most 100 columns wide, and as a plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import RenderableType
from rich.table import Table

from recserve_client.cli.tables import table
from recserve_export.outcomes.experiments import Comparison, ExperimentReport
from recserve_export.outcomes.report import Group, OutcomeReport

#: Positions in the table; the others are in the JSON.
_POSITIONS: Final = 10


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
    figures = ("impressions", "clicks", "CTR (95%)", "conversions", "rate (95%)")
    rows = []
    for group in groups:
        cells = [group.name, f"{group.impressions:,}"]
        for rate in (group.clicks, group.conversions):
            share = "" if rate.rate is None else f"{rate.rate:.2%} ({100 * rate.low:.2f}-{100 * rate.high:.2f})"
            cells += [f"{rate.count:,}", share]
        rows.append(cells)
    return table((title, *figures), rows, right=figures)


def draw(report: OutcomeReport, path: Path) -> None:
    """Plot the rates by position, by strategy and by variant into a PNG, with their intervals."""
    from matplotlib.figure import Figure

    named = [("position", report.positions), ("strategy", report.strategies), ("variant", report.variants)]
    parts = [(title, groups) for title, groups in named if groups]
    figure = Figure(figsize=(4 * max(1, len(parts)), 4), layout="constrained")
    for number, (title, groups) in enumerate(parts, start=1):
        axes = figure.add_subplot(1, len(parts), number)
        for shift, colour, name in ((-0.1, "#4269d0", "clicks"), (0.1, "#efb118", "conversions")):
            rates = [group.clicks if name == "clicks" else group.conversions for group in groups]
            middles = [rate.rate or 0.0 for rate in rates]
            below = [middle - rate.low for middle, rate in zip(middles, rates, strict=True)]
            above = [rate.high - middle for middle, rate in zip(middles, rates, strict=True)]
            at = [place + shift for place in range(len(groups))]
            axes.errorbar(at, middles, yerr=[below, above], fmt="o", color=colour, capsize=3, label=name)
        axes.set_xticks(range(len(groups)), [group.name.replace(" ", "\n") for group in groups])
        axes.set(xlabel=title, ylabel="part of impressions")
        # Otherwise a single group would have its two rates at the edges.
        axes.set_xlim(-0.5, len(groups) - 0.5)
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, axis="y", alpha=0.3)
    if parts:
        figure.axes[0].legend()
    figure.suptitle(f"{_answers(report.answers)}; 95% Wilson intervals")
    figure.savefig(path, format="png", dpi=120)


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
    yield ""
    yield f"experiment {experiment.name}, version {experiment.version}, by user:"
    figures = ("weight", "users", "who clicked", "who converted", "impressions", "clicks")
    rows = []
    for of in experiment.variants:
        users = [f"{count:,} ({count / of.users:.1%})" if of.users else "0" for count in (of.clicked, of.converted)]
        rows.append([of.name, f"{of.weight:g}", f"{of.users:,}", *users, f"{of.impressions:,}", f"{of.clicks:,}"])
    yield table(("variant", *figures), rows, right=figures)
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
    figures = ("difference", "95%", "z", "p", f"power {lift:+.0%}", "80% finds")
    rows = []
    for of in comparisons:
        interval = "" if of.low is None or of.high is None else f"{of.low:+.4f} to {of.high:+.4f}"
        numbers = ((of.difference, "+.4f"), (of.z, ".2f"), (of.p, ".3g"), (of.power, ".0%"), (of.detectable, "+.4f"))
        difference, *others = ("" if number is None else format(number, form) for number, form in numbers)
        rows.append([of.variant, of.measure, difference, interval, *others])
    return table(("variant", "measure", *figures), rows, right=figures)
