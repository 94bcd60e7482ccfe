"""`recserve console --serve`: one line that runs a server and the console, and ends both."""

from __future__ import annotations

from pathlib import Path

import psutil
from playwright.sync_api import Browser, expect

from support.console import Visit, console_over
from support.tiny_home import copy_home


def test_one_line_serves_and_shows_and_leaves_nothing_behind(tiny_home: Path, tmp_path: Path, browser: Browser) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    with console_over("--serve", "--home", str(home)) as started:
        with Visit(browser, started.url).open("overview") as visit:
            expect(visit.page.get_by_text("Nothing to worry about")).to_be_visible()
            assert visit.faults == []
        family = psutil.Process(started.process.pid).children(recursive=True)
        assert any("tritonserver" in one.name() for one in family)
    assert not psutil.wait_procs(family, timeout=10)[1]
