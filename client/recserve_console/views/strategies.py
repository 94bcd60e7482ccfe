"""Strategies: what an evaluation found, which versions serve, and the commands that train, evaluate and switch them."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from typing import Any, Final

from nicegui import ui

from recserve_client.contract import ServedStrategies
from recserve_client.errors import RecserveError
from recserve_console.home.evaluation import Evaluated, Figure, evaluation_of
from recserve_console.home.state import SnapshotVersion, SpaceVersion, snapshot_versions, space_versions
from recserve_console.views.parts.job_panel import JobPanel
from recserve_console.views.parts.pieces import age, card, heading, interval, muted, table
from recserve_console.views.parts.view import View
from recserve_console.views.strategy_panels.flow import draw_flow
from recserve_console.views.strategy_panels.trainings import draw_trainings
from recserve_console.watch.stages import StrategyTimes, strategy_times
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.errors import ServerError

_ABOUT: Final = {
    "time": "By time: learned from what was before a moment, asked for what came after it.",
    "leave_one_out": "Leave one out: the last item of each user is asked for.",
}
_STAGES_ABOUT: Final = (
    "Up to five minutes. An arrow says how many slates went into a stage, and how long that took: the mean and the "
    "99th percentile. The thicker it is, the larger its part of the time."
)
_ACTIVITY: Final = {"cold": "no behaviour", "few": "few behaviours", "many": "many behaviours"}


class Strategies(View):
    """The fifth view."""

    name, title, icon = "strategies", "Strategies", "emoji_events"

    async def build(self) -> None:
        """See `View.build`."""
        self._state: tuple[Any, ...] | None = None
        self._times: list[StrategyTimes] | None = None
        heading("Strategies")
        with ui.column().classes("w-full q-my-sm"), card("Stages", _STAGES_ABOUT):
            self._stages = ui.column().classes("w-full")
        self._content = ui.column().classes("w-full gap-3 q-mt-sm")
        if self.console.jobs is not None:
            self._panel: JobPanel | None = JobPanel(self.console)
        else:
            self._panel = None
            muted("Open the console beside the home to see evaluations and versions, and to change what is served.")

    async def refresh(self) -> None:
        """See `View.refresh`: draws anew only what has changed."""
        if self._panel is not None:
            self._panel.refresh()
        self._draw_stages()
        try:
            served = await self.console.client.strategies(deadline_s=2)
        except RecserveError:
            served = None
        home = self.console.home
        read = (None, [], []) if home is None else await asyncio.to_thread(_read, home)
        evaluated, versions, snapshots = read
        state = (served, evaluated, versions, snapshots)
        if state == self._state:
            return
        self._state = state
        self._content.clear()
        with self._content:
            self._draw(served, evaluated, versions)
            if snapshots:
                about = "Each serves with the encoder that made it; what changed in the catalogue since then is added."
                with card("Snapshots and their encoders", about):
                    self._draw_snapshots(snapshots)

    def _draw(
        self, served: ServedStrategies | None, evaluated: Evaluated | str | None, versions: list[SpaceVersion]
    ) -> None:
        if served is not None:
            self._draw_served(served)
        if isinstance(evaluated, str):
            ui.label(evaluated).classes("rs-bad")
        elif evaluated is not None:
            self._draw_evaluation(evaluated)
        elif self.console.home is not None:
            with card("Evaluation"):
                muted("This home's log is not evaluated yet: recserve evaluate")
        if versions:
            draw_trainings(versions)
            with card("Versions of trained spaces", "The current one serves; a change needs no restart."):
                self._draw_versions(versions)

    def _draw_stages(self) -> None:
        watcher = self.console.watcher
        times = strategy_times(watcher.pages[0], watcher.page) if watcher.pages and watcher.page else []
        if times != self._times:
            self._times = times
            self._stages.clear()
            with self._stages:
                draw_flow(times)

    def _draw_served(self, served: ServedStrategies) -> None:
        about = f"{served.default} answers requests that name none, {served.fallback} users of whom nothing is known."
        with card("Served", about):
            muted(", ".join(one.name for one in served.strategies))

    def _draw_evaluation(self, evaluated: Evaluated) -> None:
        about = f"{evaluated.interactions:,} interactions of {evaluated.users:,} users, {evaluated.made}"
        with card("Evaluation", about):
            rows = [
                (
                    _ACTIVITY.get(activity, activity),
                    choice.strategy,
                    ", ".join(f"{k} {v}" for k, v in choice.options.items()),
                )
                for activity, choice in evaluated.chosen.items()
                if choice is not None
            ]
            if rows:
                table(("users with", "served by auto", "options"), rows, label="Chosen")
            for protocol, figures in evaluated.protocols.items():
                heading(f"NDCG@10, {protocol.replace('_', ' ')}", 3).classes("q-mt-sm")
                muted(f"{_ABOUT.get(protocol, '')} The line is the 95% interval of the mean.")
                self._draw_figures(figures)

    def _draw_figures(self, figures: list[Figure]) -> None:
        scale = max((figure.high for figure in figures), default=0.0) or 1.0
        rows = []
        for one in figures:
            against = ""
            if one.difference is not None and one.p is not None and any(one.difference):
                mean, low, high = one.difference
                against = f"{mean:+.4f} ({low:+.4f} to {high:+.4f}), p {one.p:.3f}"
            name = f"{one.system} (baseline)" if one.is_baseline else one.system
            rows.append((name, f"{one.mean:.4f}", partial(interval, one.mean, one.low, one.high, scale), against))
        reference = next((one.against for one in figures if one.against), "the reference")
        headings = ("system", "mean", "95% interval", f"difference from {reference}")
        table(headings, rows, right=("mean",), label="Figures")

    def _draw_versions(self, versions: list[SpaceVersion]) -> None:
        rows = []
        for one in versions:
            state = one.fault or ("serves" if one.is_current else "")
            made = age(one.made_s)
            rows.append(
                (one.space, one.version, made, f"{one.items:,}", f"{one.log:,}", state, partial(self._actions, one))
            )
        headings = ("space", "version", "made", "items", "log up to", "state", "change")
        table(headings, rows, right=("items", "log up to"), label="Versions")

    def _draw_snapshots(self, snapshots: list[SnapshotVersion]) -> None:
        rows = [
            (
                one.name,
                age(one.made_s),
                f"{one.items:,}",
                f"{one.revision:,}",
                one.encoder,
                one.fault or ("serves" if one.is_current else ""),
                partial(self._draw_activation, one),
            )
            for one in snapshots
        ]
        headings = ("snapshot", "made", "items", "revision", "encoder", "state", "change")
        table(headings, rows, right=("items", "revision"), label="Snapshots")

    def _draw_activation(self, one: SnapshotVersion) -> None:
        panel = self._panel
        if panel is None or one.is_current or one.fault or self.console.why_not(Scope.ADMIN):
            return
        about = f"serve snapshot {one.name} with its encoder {one.encoder}"
        ui.button("Activate", on_click=lambda: panel.ask(("index", "activate", one.name), about)).props("flat dense")

    def _actions(self, one: SpaceVersion) -> None:
        if self._panel is None or self.console.why_not(Scope.ADMIN):
            return
        panel = self._panel
        if one.is_current and not one.can_roll_back:
            return
        words, label, about = ("spaces", "activate", one.space), "Activate", f"serve {one.space} {one.version}"
        if one.is_current:
            words, label, about = ("spaces", "rollback", one.space), "Roll back", f"serve the {one.space} before"
        command = words if one.is_current else (*words, one.version)
        ui.button(label, on_click=lambda: panel.ask(command, about)).props("flat dense")


def _read(home: Path) -> tuple[Evaluated | str | None, list[SpaceVersion], list[SnapshotVersion]]:
    """The evaluation, or why it cannot be read; the versions of spaces, and the snapshots."""
    try:
        evaluated: Evaluated | str | None = evaluation_of(home)
    except ServerError as error:
        evaluated = str(error)
    return evaluated, space_versions(home), snapshot_versions(home)
