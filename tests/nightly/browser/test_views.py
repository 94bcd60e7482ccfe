"""Every view, on both widths, light and dark: it fits, can be used by all, and takes no text for markup."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from recserve_client import Client, ClientOptions
from recserve_client.errors import InvalidRequest
from recserve_console.home.log import newest_answers
from support.console import EVIL, EVIL_ID, EVIL_USER, SCHEMES, WIDTHS, Look, Visit, serious_faults
from support.served import Served

Opening = Callable[..., Visit]
LONG_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def asked(films_server: Served) -> None:
    """An answer and a refusal since the server began: what it holds of requests ends with it, and others restart it."""
    with Client(films_server.grpc, ClientOptions(deadline_s=60)) as client:
        with pytest.raises(InvalidRequest):
            client.recommend_for(EVIL_USER, fields=[EVIL])
        answered = client.recommend_for(EVIL_USER, k=5).recommendation_id
    give_up = time.monotonic() + LONG_S
    while newest_answers(films_server.home, 1)[0].id != answered:
        assert time.monotonic() < give_up


FIND = "Find an item, or write a text and press Enter"


def overview(page: Page) -> None:
    expect(page.get_by_text("Nothing to worry about")).to_be_visible()
    expect(page.get_by_role("region", name="Models").get_by_text("recommend", exact=True)).to_be_visible()


def try_out(page: Page) -> None:
    field = page.get_by_label(FIND)
    field.fill(EVIL_ID)
    page.get_by_role("button", name="onerror").first.click()
    field.fill(EVIL)
    field.press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(10)
    page.get_by_label("Beside it, to compare").click()
    page.get_by_role("option", name="text", exact=True).click()
    expect(page.get_by_text("items are in both slates")).to_be_visible()
    expect(page.get_by_role("listitem")).to_have_count(20)


def user(page: Page) -> None:
    page.get_by_label("User id").fill(EVIL_USER)
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("cell", name=EVIL).first).to_be_visible()
    page.get_by_role("button", name="Draw the interests").click()
    expect(page.get_by_text("behaviours: interest 1")).to_be_visible()
    page.get_by_role("button", name="Recommend now").click()
    expect(page.get_by_role("listitem").first).to_be_visible()


def catalogue(page: Page) -> None:
    page.get_by_label("Find an item").fill(EVIL_ID)
    page.get_by_role("button", name="onerror").first.click()
    expect(page.get_by_role("heading", name="onerror")).to_be_visible()
    page.get_by_role("button", name="Draw the map").click()
    expect(page.get_by_text("of the variance")).to_be_visible()
    page.get_by_label("Colour").click()
    page.get_by_role("option", name="genre", exact=True).click()
    page.get_by_role("button", name="Look").click()
    expect(page.get_by_text("items are in none of the newest")).to_be_visible()
    page.get_by_label("User to draw").fill(EVIL_USER)
    page.get_by_role("button", name="Draw the user").click()
    expect(page.get_by_text("diamond: the user")).to_be_visible()


def strategies(page: Page) -> None:
    expect(page.get_by_role("cell", name=EVIL).first).to_be_visible()
    flow = page.get_by_role("group", name="Flow of a strategy").filter(has_text="resolve").first
    expect(flow.get_by_text("p99").first).to_be_visible()
    expect(page.get_by_role("region", name="Champion and challenger").get_by_text("was not let serve")).to_be_visible()
    expect(page.get_by_role("region", name="Snapshots").get_by_role("cell", name="serves")).to_be_visible()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()


def outcomes(page: Page) -> None:
    expect(page.get_by_text("162 joined")).to_be_visible()
    expect(page.get_by_role("img", name="Clicks by strategy over time")).to_be_visible()
    page.get_by_role("button", name="Position").click()
    expect(page.get_by_role("img", name="Clicks by position over time")).to_be_visible()


def data(page: Page) -> None:
    expect(page.get_by_role("cell", name="<i>", exact=True)).to_be_visible()
    # What was counted is kept, and a test before may have added a user and erased it.
    page.get_by_role("button", name="Count again").click()
    expect(page.get_by_text("of 2 users")).to_be_visible()


def requests(page: Page) -> None:
    expect(page.get_by_role("cell", name="by id").first).to_be_visible()
    refusals = page.get_by_role("region", name="Refusals")
    expect(refusals.get_by_text("unknown field").first).to_be_visible()
    expect(refusals.get_by_text("onerror")).to_have_count(0)


VIEWS: dict[str, Callable[[Page], None]] = {
    "overview": overview,
    "try": try_out,
    "user": user,
    "catalogue": catalogue,
    "strategies": strategies,
    "outcomes": outcomes,
    "data": data,
    "requests": requests,
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("view", VIEWS)
def test_a_view(visit: Opening, pictures: Path, view: str, width: int, scheme: Any) -> None:
    page = visit(view, Look(width, scheme)).page
    VIEWS[view](page)
    page.screenshot(path=pictures / f"{view}-{width}-{scheme}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_faults(page) == []


def test_a_weight_is_changed_by_keys_and_pushes_away(visit: Opening) -> None:
    page = visit("try").page
    field = page.get_by_label(FIND)
    for words in ("a voyage to a distant planet", "a love story in Paris"):
        field.fill(words)
        field.press("Enter")
        expect(page.get_by_text(f"“{words}”").first).to_be_visible()
    first = page.get_by_role("listitem").first.inner_text()
    weight = page.get_by_role("slider", name="Weight").first.locator("[tabindex='0']").first
    for _ in range(30):
        weight.press("ArrowLeft")
    expect(page.get_by_text("-2.0", exact=True)).to_be_visible()
    expect(page.get_by_role("listitem").first).not_to_have_text(first)
    # What pushes away is hatched in the bars.
    expect(page.locator(".rs-minus").first).to_be_attached()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_the_walk_of_a_logged_answer(visit: Opening, pictures: Path, width: int, scheme: Any) -> None:
    page = visit("requests", Look(width, scheme)).page
    page.get_by_role("button", name="Walk").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Worked out now")).to_be_visible()
    expect(dialog.get_by_role("region", name="Stages of the request").get_by_text("candidates")).to_be_visible()
    page.screenshot(path=pictures / f"walk-{width}-{scheme}.png")
    assert serious_faults(page) == []


@pytest.mark.parametrize("scheme", SCHEMES)
def test_why_an_item_is_not_in_the_slate(visit: Opening, pictures: Path, scheme: Any) -> None:
    page = visit("try", Look(WIDTHS[-1], scheme)).page
    field = page.get_by_label(FIND)
    field.fill("a voyage to a distant planet")
    field.press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(10)
    page.get_by_role("button", name="Why not").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Find an item to explain").fill(EVIL_ID)
    dialog.get_by_role("button", name="onerror").first.click()
    expect(dialog.get_by_role("heading", name="onerror")).to_be_visible()
    expect(dialog.get_by_role("cell", name="candidates", exact=True)).to_be_visible()
    expect(dialog.get_by_role("cell", name="text", exact=True).first).to_be_visible()
    page.screenshot(path=pictures / f"why-not-{scheme}.png")
    assert serious_faults(page) == []


def test_tabs_are_reached_and_changed_by_keys(visit: Opening) -> None:
    page = visit("overview").page
    page.get_by_role("tab", name="Overview").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Try it out")).to_be_visible()
    expect(page).to_have_url(f"{page.url.partition('?')[0]}?view=try")
