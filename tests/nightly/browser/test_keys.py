"""The console over TLS and beyond loopback: people show a key, see what it is good for, and leave."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from recserve_server_ext.access.key_file import create_key, revoke_key
from recserve_server_ext.access.scopes import Scope
from recserve_server_ext.common.workspace import Workspace
from support.certificates import Authority
from support.console import PATIENCE_MS, SCHEMES, WIDTHS, console_over, serious_faults
from support.served import Served
from support.tiny_home import copy_home


class House(NamedTuple):
    """A console over TLS, its keys by name, and their file."""

    url: str
    keys: dict[str, tuple[str, str]]
    file: Path


@pytest.fixture(scope="module")
def house(films_server: Served, tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("keys")
    home = copy_home(tiny_home, folder / "home")
    file = Workspace(home).api_keys
    scopes = {"all": Scope.ADMIN, "items": Scope.ITEMS, "to revoke": Scope.ADMIN}
    keys = {name: create_key(file, name, [scope]) for name, scope in scopes.items()}
    files = Authority(folder, "authority").issue("console", "127.0.0.1")
    options = ["--tls-cert", str(files.cert), "--tls-key", str(files.key), "--home", str(home), "--host", "0.0.0.0"]
    with console_over(*options, "--address", films_server.grpc, "--metrics", films_server.metrics) as started:
        yield House(f"https://127.0.0.1:{started.url.rpartition(':')[2]}", keys, file)


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    contexts: list[BrowserContext] = []

    def opening(url: str, width: int = WIDTHS[0], scheme: Any = SCHEMES[0]) -> Page:
        size = {"width": width, "height": 900}
        context = browser.new_context(ignore_https_errors=True, viewport=size, color_scheme=scheme)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.goto(url)
        return page

    yield opening
    for context in contexts:
        context.close()


def log_in(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Log in").click()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_key_is_asked_for_first(
    house: House, opened: Callable[..., Page], pictures: Path, width: int, scheme: Any
) -> None:
    page = opened(f"{house.url}/?view=requests", width, scheme)
    expect(page.get_by_label("API key")).to_be_visible()
    page.screenshot(path=pictures / f"login-{width}-{scheme}.png")
    assert serious_faults(page) == []
    log_in(page, "rsk_wrong")
    expect(page.get_by_role("alert")).to_have_text("This key is not valid.")
    log_in(page, house.keys["all"][1])
    expect(page.get_by_role("status").first).to_contain_text("is well")
    expect(page.get_by_role("tab")).to_have_count(8)
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (True, True, "Strict")
    page.screenshot(path=pictures / f"logged-in-{width}-{scheme}.png")
    assert serious_faults(page) == []
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto(house.url)
    expect(page.get_by_label("API key")).to_be_visible()


def test_a_key_opens_the_views_of_its_scope(house: House, opened: Callable[..., Page]) -> None:
    page = opened(house.url)
    log_in(page, house.keys["items"][1])
    expect(page.get_by_role("tab")).to_have_count(1)
    expect(page.get_by_role("heading", name="Catalogue")).to_be_visible()
    page.goto(f"{house.url}/?view=user")
    expect(page.get_by_role("heading", name="Catalogue")).to_be_visible()


def test_a_revoked_key_ends_an_open_page(house: House, opened: Callable[..., Page]) -> None:
    page = opened(house.url)
    key_id, key = house.keys["to revoke"]
    log_in(page, key)
    expect(page.get_by_role("status").first).to_contain_text("is well")
    revoke_key(house.file, key_id)
    expect(page.get_by_label("API key")).to_be_visible()
