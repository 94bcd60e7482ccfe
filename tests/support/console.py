"""The console in a process of its own, and a browser to look at it with."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple, Self

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.program import program

#: Of the browsers of systems, the first that is installed.
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
#: Milliseconds that a page may take beside other programs.
PATIENCE_MS: Final = 30_000
WIDTHS: Final = (1280, 390)
Scheme = Literal["light", "dark"]
SCHEMES: Final[tuple[Scheme, ...]] = ("light", "dark")

#: Runs a script wherever it is taken for markup.
EVIL = "<img src=x onerror=\"window.broken=1;alert('broken')\"><script>window.broken=1</script>{{ window.broken=1 }}"
EVIL_ID = "evil <b onmouseover=alert(1)>&amp;"
EVIL_USER = "user <svg onload=\"window.broken=1;alert('user')\">"
#: A simulated user.
USER = "simulated-user-1"


class Started(NamedTuple):
    """A running console."""

    url: str
    process: subprocess.Popen[bytes]


@contextmanager
def console_over(*options: str) -> Iterator[Started]:
    """Run `recserve console` on a free port, and stop it with SIGTERM: it must exit with 0."""
    with program(("console", *options)) as running:
        yield Started(f"http://{running.ready['console']}", running.process)


@contextmanager
def console(grpc: str, metrics: str, home: Path | None = None) -> Iterator[str]:
    """Run the console of a server; yields its URL.

    Args:
        grpc: host:port of the server it asks.
        metrics: host:port of its metrics.
        home: Home it is opened beside, or `None`.
    """
    place = os.devnull if home is None else str(home)
    with console_over("--address", grpc, "--metrics", metrics, "--home", place) as started:
        yield started.url


@contextmanager
def system_browser() -> Iterator[Browser]:
    """The browser of this system; skips the test where there is none."""
    found = next((path for name in _BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser is installed; one of: {', '.join(_BROWSERS)}")
    # A root user, as in a container, has no sandbox; and what is asked is on this machine.
    arguments = ["--no-sandbox", "--no-proxy-server"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def serious_faults(page: Page) -> list[Any]:
    """What axe-core finds that keeps people out."""
    found = Axe().run(page).response["violations"]
    return [
        (fault["id"], [node["html"][:200] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]


class Look(NamedTuple):
    """How a page is looked at."""

    width: int = 1280
    scheme: Scheme = "light"


DESK: Final = Look()


class Visit:
    """A page of the console, with what it asked for and what went wrong in it."""

    def __init__(self, browser: Browser, url: str, look: Look = DESK) -> None:
        # Without motion: what fades in has little contrast until it is there.
        self._context = browser.new_context(
            viewport={"width": look.width, "height": 900}, color_scheme=look.scheme, accept_downloads=True,
            reduced_motion="reduce",
        )  # fmt: skip
        self.url, self.look = url, look
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        #: URLs of all requests, and of all WebSockets.
        self.requests: list[str] = []
        #: Errors of scripts, and what they wrote as errors to the browser's console.
        self.faults: list[str] = []
        #: Texts of dialogs that a script opened.
        self.dialogs: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda said: self.faults.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", self._dismiss)

    def _dismiss(self, dialog: Any) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, view: str) -> Self:
        """Open a view, and wait until the server is told to be well."""
        self.page.goto(f"{self.url}/?view={view}")
        expect(self.page.get_by_role("status").first).to_contain_text("is well")
        return self

    def elsewhere(self) -> list[str]:
        """Requests that left for another place than the console."""
        places = (self.url, self.url.replace("http://", "ws://"), "data:", "blob:")
        return [asked for asked in self.requests if not asked.startswith(places)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._context.close()
