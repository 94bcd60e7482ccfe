"""Jobs: starts commands over the home, shows their output while they run, ends them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from nicegui import ui

from recserve_console.console import Console
from recserve_console.jobs import BusyError, Job
from recserve_console.views.parts.pieces import age, card, confirm, heading, muted, say, told
from recserve_console.visitors import NotAllowedError
from recserve_server_ext.access.scopes import Scope

_LINES: Final = 12
#: Commands that are offered: label, words, what they do.
_OFFERED: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    ("Train als", ("train", "als"), "train the space als on the log, and serve it where it is not worse"),
    ("Train all", ("train", "all"), "train every space on the log, which may take long"),
    ("Evaluate (quick)", ("evaluate", "--quick", "--users", "300"), "measure every strategy on the log"),
    ("Build the index", ("index", "build"), "make a new snapshot of the catalogue and the trained spaces"),
)


class JobPanel:
    """Shows the jobs of the console; all pages show the same."""

    def __init__(self, console: Console) -> None:
        """`console`: beside a home."""
        assert console.jobs is not None
        self._console, self._jobs = console, console.jobs
        self._shown: object = None
        why = console.why_not(Scope.ADMIN)
        with card("Jobs", "Run over the home of this console, one at a time, whether a page is open or not."):
            if why:
                muted(why)
            with ui.row().classes("gap-2"):
                for label, words, about in () if why else _OFFERED:
                    ui.button(label, on_click=lambda _, words=words, about=about: self.ask(words, about)).props(
                        "outline dense"
                    )
            if not why:
                self._draw_export()
            self._box = ui.column().classes("w-full gap-2")
        self.refresh()

    def ask(self, words: Sequence[str], about: str) -> None:
        """Ask whether a command is meant, then start it."""

        async def start() -> None:
            try:
                self._console.start(words)
            except (BusyError, NotAllowedError, OSError) as error:
                say(error)
            self.refresh()

        command = " ".join(("recserve", *words))
        confirm("Start this?", f"{command}: {about}.", "Start", start).open()

    def _draw_export(self) -> None:
        """A field for the model that becomes an encoder."""
        with ui.row().classes("w-full items-center gap-2"):
            source = ui.input("Model to export: a folder, or a name on the hub")
            source.props("outlined dense clearable").classes("grow")

            def export() -> None:
                model = str(source.value or "").strip()
                if not model or model.startswith("-"):
                    say("name the folder of a model, or its name on the hub")
                    return
                about = "export it as an encoder and compare it with PyTorch; it serves once an index is built with it"
                self.ask(("export", "encoder", model), about)

            ui.button("Export an encoder", on_click=export).props("outline dense")

    def _end(self, job: Job) -> None:
        with told():
            self._console.record(Scope.ADMIN, "job.cancel", job.name)
            job.cancel()

    def refresh(self) -> None:
        """Draw the jobs, where anything has changed."""
        shown = [(job.name, job.state, tuple(job.lines)[-_LINES:]) for job in self._jobs.jobs]
        if shown == self._shown:
            return
        self._shown = shown
        self._box.clear()
        with self._box:
            for job in self._jobs.jobs:
                self._draw(job)
            if not shown:
                muted("Nothing was started yet.")

    def _draw(self, job: Job) -> None:
        with ui.row().classes("w-full items-center gap-2"):
            heading(job.name, 3)
            muted(f"{job.state}, started {age(job.started_s)}")
            if job.state == "running":
                ui.spinner(size="1.2em")
                if not self._console.why_not(Scope.ADMIN):
                    ui.button("End it", on_click=partial(self._end, job)).props("flat dense color=negative")
        if job is self._jobs.jobs[0] or job.state == "failed":
            ui.label("\n".join(list(job.lines)[-_LINES:])).classes("rs-code w-full")
