"""Import: a file that is dropped on the page is looked at, and imported by a job."""

from __future__ import annotations

import asyncio
import shlex
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.events import UploadEventArguments

from recserve_console.console import Console
from recserve_console.home.imports import MOST_BYTES, Store, place_for, preview_of
from recserve_console.jobs import BusyError
from recserve_console.views.parts.pieces import card, confirm, muted, say, table, waiting
from recserve_console.visitors import NotAllowedError
from recserve_export.errors import ExportError
from recserve_export.tabular.preview import Preview
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.units import MIB


class ImportPanel:
    """Takes a file, shows how it would be read, and starts its import."""

    def __init__(self, console: Console) -> None:
        """`console`: beside a home."""
        self._console = console
        self._path: Path | None = None
        about = f"Up to {MOST_BYTES // MIB:,} MiB; nothing is imported before it was shown how the file would be read."
        with card("Import a file", about):
            if why := console.why_not(Scope.ADMIN):
                muted(why)
                return
            self._store: Any = ui.toggle(
                {"catalogue": "items", "interactions": "interactions"}, value="catalogue", on_change=self._look
            )
            # Hidden, since Quasar's own header is a button without a name that holds a field without one.
            self._upload = ui.upload(
                max_files=1, max_file_size=MOST_BYTES, auto_upload=True, on_upload=self._take,
                on_rejected=lambda: say("the file is too large, or more than one"),
            ).classes("hidden")  # fmt: skip
            uploader = f"getElement({self._upload.id}).$refs.qRef"
            zone = ui.row().classes("w-full items-center gap-3 q-pa-md").style("border: 1px dashed currentColor")
            zone.on("dragover", js_handler="(event) => event.preventDefault()")
            drop = f"(event) => {{ event.preventDefault(); {uploader}.addFiles(event.dataTransfer.files) }}"
            zone.on("drop", js_handler=drop)
            with zone:
                ui.label("Drop a file here, or")
                choose = ui.button("Choose a file", icon="upload_file").props("outline")
                choose.on("click", js_handler=f"() => {uploader}.pickFiles()")
            self._box = ui.column().classes("w-full gap-2")

    async def _take(self, event: UploadEventArguments) -> None:
        """Keep a file, and show how it would be read."""
        home = self._console.home
        assert home is not None
        try:
            self._console.check(Scope.ADMIN)
            self._path = place_for(home, event.file.name)
            await event.file.save(self._path)
        except (OSError, NotAllowedError) as error:
            say(f"the file cannot be kept: {error}")
            return
        self._upload.reset()
        await self._look()

    async def _look(self) -> None:
        """Show how the file would be read as what is chosen."""
        if self._path is None:
            return
        store: Store = self._store.value
        self._box.clear()
        with self._box:
            waiting(f"Reading {self._path.name} …")
        try:
            found: Preview | ExportError | OSError = await asyncio.to_thread(preview_of, self._path, store)
        except (ExportError, OSError) as error:
            found = error
        self._box.clear()
        with self._box:
            if isinstance(found, Preview):
                self._draw(found)
            else:
                ui.label(str(found)).classes("rs-bad")

    def _draw(self, found: Preview) -> None:
        muted(found.line)
        rows = [
            (one.name, one.kind, f"{one.missing:,}", f"{one.distinct:,}", str(one.example)[:60])
            for one in found.columns
        ]
        table(("column", "kind", "missing", "distinct", "first"), rows, right=("missing", "distinct"), label="Columns")
        command: Any = ui.input("Command", value=found.command).classes("w-full rs-code")
        ui.button("Import", icon="upload_file", on_click=lambda: self._ask(str(command.value))).props("outline")

    def _ask(self, command: str) -> None:
        """Ask whether an import is meant, then start it; only options of the import may be changed."""
        try:
            words = shlex.split(command)
        except ValueError as error:
            say(f"the command cannot be read: {error}")
            return
        expected = ["recserve", str(self._store.value), "import", str(self._path)]
        if words[: len(expected)] != expected or any(word.startswith("--home") for word in words):
            say(f"the command must begin with: {shlex.join(expected)}; the home is that of this console")
            return

        async def start() -> None:
            try:
                self._console.start(words[1:])
            except (BusyError, NotAllowedError, OSError) as error:
                say(error)
                return
            say("started: see Jobs under Strategies", is_good=True)

        removes = " Items of the catalogue that the file lacks are removed." if self._store.value == "catalogue" else ""
        confirm("Import this?", f"{shlex.join(words)}.{removes}", "Import", start).open()
