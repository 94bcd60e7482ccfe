"""Running experiments: what of them the server serves; ends one, and starts another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

from nicegui import ui

from recserve_console.console import Console
from recserve_console.views.parts.pieces import card, confirm, muted, say, table, told
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.experiments import Experiment, version_of
from recserve_server_ext.recommend.experiments.file import (
    end_experiment,
    parse_experiment,
    read_experiments,
    start_experiment,
)

_EXAMPLE: Final = """\
name = "mood"
share = 0.5
variants = [
    { name = "control" },
    { name = "session", options = { mix = 0.9 } },
]
"""


class ExperimentPanel:
    """Shows the experiments of the home; all servers of it follow."""

    def __init__(self, console: Console, home: Path) -> None:
        self._console, self._path = console, Workspace(home).experiments
        self._shown: object = None
        about = "Of all servers of this home, which follow within two seconds. What came of each stands below."
        with card("Running experiments", about):
            self._box = ui.column().classes("w-full gap-2")
            why = console.why_not(Scope.ADMIN)
            if why:
                muted(why)
            else:
                with ui.expansion("Start an experiment", icon="science").classes("w-full"):
                    muted("As TOML; the other variants are compared with the first. Options are fields of a request.")
                    self._text: Any = ui.textarea("Experiment", value=_EXAMPLE)
                    self._text.props("outlined autogrow").classes("w-full rs-code")
                    ui.button("Start", icon="play_arrow", on_click=self._ask_to_start).props("outline")
        self.refresh()

    def refresh(self) -> None:
        """Draw the experiments, where anything has changed."""
        try:
            running: list[Experiment] | str = read_experiments(self._path)
        except ServerError as error:
            running = str(error)
        served = [] if isinstance(running, str) else [self._state(one) for one in running]
        if (running, served) == self._shown:
            return
        self._shown = running, served
        self._box.clear()
        with self._box:
            if isinstance(running, str):
                ui.label(running).classes("rs-bad")
            elif not running:
                muted("No experiment runs.")
            else:
                self._draw(running, served)

    def _draw(self, running: list[Experiment], served: list[str]) -> None:
        rows = [
            (
                one.name,
                version_of(one),
                f"{one.share:.0%}",
                ", ".join(f"{variant.name} ({variant.weight:g})" for variant in one.variants),
                state,
                partial(self._draw_end, one.name),
            )
            for one, state in zip(running, served, strict=True)
        ]
        columns = ("experiment", "version", "users", "variants (weights)", "state", "change")
        table(columns, rows, right=("users",), label="Running experiments")

    def _state(self, one: Experiment) -> str:
        """Whether the server that the console asks serves an experiment, by its metrics."""
        page = self._console.watcher.page
        if page is None:
            return "the metrics are away"
        share = page.total("recserve_experiment_share", experiment=one.name, version=version_of(one))
        return "served" if share else "not served (yet): see the server's log"

    def _draw_end(self, name: str) -> None:
        if not self._console.why_not(Scope.ADMIN):
            ui.button("End", on_click=lambda: self._ask_to_end(name)).props("flat dense")

    def _ask_to_end(self, name: str) -> None:
        async def end() -> None:
            await self._change("experiment.end", name, partial(end_experiment, self._path, name))

        about = f"Users of {name} are answered as all others from now on. What came of it is still reported."
        confirm("End this experiment?", about, "End", end).open()

    def _ask_to_start(self) -> None:
        try:
            experiment = parse_experiment(str(self._text.value).encode(), is_toml=True)
        except ServerError as error:
            say(str(error))
            return

        async def start() -> None:
            what = f"{experiment.name} {version_of(experiment)}"
            await self._change("experiment.start", what, partial(start_experiment, self._path, experiment))

        about = f"{experiment.share:.0%} of all users are answered by {len(experiment.variants)} variants from now on."
        confirm(f"Start {experiment.name}?", about, "Start", start).open()

    async def _change(self, action: str, what: str, change: Any) -> None:
        """Make a change and write it down, before and, where it failed, after."""
        with told():
            self._console.record(Scope.ADMIN, action, what, "asked for")
            try:
                change()
            except ServerError as error:
                self._console.record(Scope.ADMIN, action, what, str(error))
                say(str(error))
                return
            self._console.record(Scope.ADMIN, action, what)
            say("done: servers follow within two seconds", is_good=True)
        self.refresh()
