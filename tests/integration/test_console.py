"""The console over a real server, in a real browser: one page of it. tests/nightly/browser has the others."""

from __future__ import annotations

import time

import psutil
import pytest
from playwright.sync_api import expect

from recserve_console.home.state import home_state
from support.console import Visit, console, system_browser
from support.served import Served

pytestmark = pytest.mark.triton


def test_a_text_becomes_a_slate_and_nothing_leaves_the_machine(tiny_server: Served) -> None:
    with (
        system_browser() as browser,
        console(tiny_server.grpc, tiny_server.metrics) as url,
        Visit(browser, url).open("try") as visit,
    ):
        page = visit.page
        field = page.get_by_label("Find an item, or write a text and press Enter")
        field.fill("a voyage to a distant planet")
        field.press("Enter")
        expect(page.get_by_role("listitem")).to_have_count(10)
        expect(page.get_by_text("“a voyage to a distant planet”").first).to_be_visible()
        assert visit.faults == []
        assert visit.elsewhere() == []


def test_the_processes_of_a_running_server_are_those_of_its_home(tiny_server: Served) -> None:
    state = home_state(tiny_server.home)
    assert state.memory_bytes > 100_000_000
    began = psutil.Process(tiny_server.process.pid).create_time()
    assert {"recommend", "embed", "items", "interactions"} <= state.began_s.keys()
    assert all(began < moment <= time.time() for moment in state.began_s.values())
