"""Outcomes: clicks and conversions by strategy, position and variant with intervals; experiments and their alarms."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec
from nicegui import ui

from recserve_console.home.log import has_log, outcome_report
from recserve_console.views.parts.experiment_panel import ExperimentPanel
from recserve_console.views.parts.pieces import NONE, card, heading, interval, muted, table
from recserve_console.views.parts.rates_over_time import RatesOverTime
from recserve_console.views.parts.view import View
from recserve_server_ext.access.scopes import Scope

if TYPE_CHECKING:
    from recserve_export.outcomes.experiments import ExperimentReport
    from recserve_export.outcomes.report import Group, OutcomeReport, Rate

_POSITIONS = 10


class Outcomes(View):
    """What came of recommendations; only beside a home."""

    name, title, icon = "outcomes", "Outcomes", "query_stats"
    scope = Scope.INTERACTIONS

    async def build(self) -> None:
        """See `View.build`."""
        with ui.row().classes("w-full items-center"):
            heading("Outcomes").classes("grow")
            ui.button("Count again", icon="refresh", on_click=lambda: self._read(again=True)).props("flat")
        assert self.console.home is not None
        self._experiments = ExperimentPanel(self.console, self.console.home)
        self._content = ui.column().classes("w-full gap-3 q-mt-sm")
        await self._read()

    async def refresh(self) -> None:
        """See `View.refresh`."""
        self._experiments.refresh()

    async def _read(self, *, again: bool = False) -> None:
        home = self.console.home
        self._content.clear()
        if home is None or not has_log(home):
            with self._content:
                muted("The home has no log of interactions of its own.")
            return
        await self.count(self._content, "the outcomes", outcome_report, self._draw, again=again)

    def _draw(self, found: OutcomeReport) -> None:
        about = (
            f"{found.answers:,} logged answers; {found.open:,} are younger than {found.window_s / 3600:g} h, so their "
            f"outcomes may still come; {found.forced:,} with variants that the request chose do not count."
        )
        with card("Recommendations", about):
            counts = {name.replace("_", " "): count for name, count in msgspec.structs.asdict(found.named).items()}
            named = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
            muted(f"Interactions that name a recommendation: {named or 'none'}")
        for title, groups in (
            ("By strategy", found.strategies),
            ("By position", found.positions[:_POSITIONS]),
            ("By variant", found.variants),
        ):
            if groups:
                with card(title, "Shares of the recommended items; the line is the 95% Wilson interval."):
                    self._draw_groups(title.split()[-1], groups)
        if found.periods:
            RatesOverTime(found)
        for experiment in found.experiments:
            self._draw_experiment(experiment, found.lift)

    def _draw_groups(self, name: str, groups: list[Group]) -> None:
        scale = max((rate.high for group in groups for rate in (group.clicks, group.conversions)), default=0.0) or 1.0
        rows = [
            (
                group.name,
                f"{group.impressions:,}",
                f"{group.clicks.count:,}",
                partial(_draw_rate, group.clicks, scale),
                f"{group.conversions.count:,}",
                partial(_draw_rate, group.conversions, scale),
            )
            for group in groups
        ]
        columns = (name, "impressions", "clicks", "click rate", "conversions", "conversion rate")
        table(columns, rows, right=("impressions", "clicks", "conversions"), label=f"Rates by {name}")

    def _draw_experiment(self, found: ExperimentReport, lift: float) -> None:
        with card(f"Experiment {found.name}, version {found.version}"):
            if found.srm_alarm:
                ui.label(
                    f"Alarm: users are not split as configured (p {found.srm_p:.2g}), so no comparison can be trusted."
                ).classes("rs-bad")
            if found.moved:
                ui.label(f"Alarm: {found.moved:,} users were answered with two variants.").classes("rs-bad")
            rows = [
                (one.name, f"{one.weight:g}", f"{one.users:,}", f"{one.clicked:,}", f"{one.converted:,}")
                for one in found.variants
            ]
            columns = ("variant", "weight", "users", "clicked", "converted")
            table(columns, rows, right=columns[1:], label="Variants")
            compared = [
                (
                    one.variant,
                    one.measure,
                    NONE if one.difference is None else f"{one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f})",
                    NONE if one.p is None else f"{one.p:.3f}",
                    NONE if one.power is None else f"{one.power:.0%}",
                )
                for one in found.comparisons
            ]
            columns = ("variant", "measure", "difference (95%)", "p", f"power for {lift:.0%} lift")
            table(columns, compared, right=columns[3:], label="Comparisons")


def _draw_rate(rate: Rate, scale: float) -> None:
    if rate.rate is None:
        muted(NONE)
        return
    ui.label(f"{rate.rate:.2%}")
    interval(rate.rate, rate.low, rate.high, scale)
