"""What people do in the console: change items, erase users, run jobs; servers that die, tabs, slow networks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, expect

from recserve_client import Client, ClientOptions, interaction
from support.console import PATIENCE_MS, USER, Visit, console
from support.served import Served

Opening = Callable[..., Visit]
#: Bytes a second and milliseconds of a slow telephone.
_SLOW = {"offline": False, "latency": 400, "downloadThroughput": 50_000, "uploadThroughput": 20_000}


@pytest.fixture(scope="module")
def films_client(films_server: Served) -> Iterator[Client]:
    with Client(films_server.grpc, ClientOptions(deadline_s=30, tries=10)) as client:
        yield client


def audited(home: Path) -> list[dict[str, Any]]:
    """The audit log."""
    return [json.loads(line) for line in (home / "console" / "audit.jsonl").read_text().splitlines()]


def open_item(page: Page, item: str) -> None:
    page.get_by_label("Find an item").fill(item)
    page.get_by_role("button", name=item).first.click()
    expect(page.get_by_text(f"{item}  ·  last changed")).to_be_visible()


def test_an_item_is_hidden_and_the_other_tab_is_told(
    visit: Opening, films_server: Served, films_client: Client
) -> None:
    item = films_client.items.list(limit=30).items[-1].id
    first, second = visit("catalogue").page, visit("catalogue").page
    for page in (first, second):
        open_item(page, item)
    first.get_by_role("button", name="Hide").click()
    expect(first.get_by_text("hidden: never recommended")).to_be_visible()
    assert not films_client.items.get([item]).items[0].available
    second.get_by_label("title").fill("Another title")
    second.get_by_role("button", name="Save").click()
    expect(second.get_by_text("somebody else changed this item")).to_be_visible()
    assert films_client.items.get([item]).items[0].texts["title"] != "Another title"
    done = [(entry["action"], entry["what"], entry["outcome"]) for entry in audited(films_server.home)]
    assert ("item.hide", item, "updated") in done
    assert ("item.change", item, "conflict") in done


def test_an_item_is_deleted_after_a_question(visit: Opening, films_client: Client) -> None:
    item = films_client.items.list(limit=31).items[-1].id
    page = visit("catalogue").page
    open_item(page, item)
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Cancel").click()
    assert films_client.items.get([item]).items
    page.get_by_role("button", name="Delete …").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page.get_by_text("The catalogue has no such item.")).to_be_visible()
    assert films_client.items.get([item]).missing == [item]


def test_a_user_is_erased_after_two_questions(visit: Opening, films_server: Served, films_client: Client) -> None:
    user, film = "simulated-user-to-erase", films_client.items.list(limit=1).items[0].id
    films_client.interactions.record([interaction(user, "view", film)])
    page = visit("user").page
    page.get_by_label("User id").fill(user)
    page.get_by_role("button", name="Open").click()
    page.get_by_role("button", name="Erase …").click()
    again = page.get_by_label("Type the user id again")
    again.fill("somebody else")
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("that is another user id")).to_be_visible()
    assert films_client.users.export(user).interactions
    again.fill(user)
    page.get_by_role("button", name="Go on").click()
    page.get_by_role("button", name="Erase", exact=True).click()
    expect(page.get_by_text("Keep this receipt")).to_be_visible()
    assert not films_client.users.export(user).interactions
    entries = audited(films_server.home)
    assert "user.erase" in {entry["action"] for entry in entries}
    assert user not in json.dumps(entries)


def test_an_experiment_is_started_served_and_ended(visit: Opening, films_server: Served, films_client: Client) -> None:
    page = visit("outcomes").page
    expect(page.get_by_text("No experiment runs.")).to_be_visible()
    page.get_by_text("Start an experiment").click()
    field = page.get_by_label("Experiment", exact=True)
    field.fill('name = "<b>"')
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_text("this is no experiment")).to_be_visible()
    field.fill(
        'name = "short"\nvariants = [{ name = "two", options = { k = 2 } }, { name = "three", options = { k = 3 } }]'
    )
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name="Start", exact=True).click()
    expect(page.get_by_role("region", name="Running experiments").get_by_text("served", exact=True)).to_be_visible()
    assert len(films_client.recommend_for(USER, k=5).items) in (2, 3)
    page.get_by_role("button", name="End", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name="End", exact=True).click()
    expect(page.get_by_text("No experiment runs.")).to_be_visible()
    done = [(entry["action"], entry.get("outcome", "done")) for entry in audited(films_server.home)]
    assert ("experiment.start", "done") in done
    assert ("experiment.end", "done") in done


def test_a_job_runs_to_its_end_though_the_page_is_closed(visit: Opening, films_server: Served) -> None:
    closed = visit("strategies").page
    closed.get_by_role("button", name="Train als").click()
    closed.get_by_role("button", name="Start", exact=True).click()
    expect(closed.get_by_role("heading", name="recserve train als")).to_be_visible()
    closed.goto("about:blank")
    page = visit("strategies").page
    expect(page.get_by_text("done, started").or_(page.get_by_text("failed, started"))).to_be_visible(timeout=120_000)
    ended = [entry["what"] for entry in audited(films_server.home) if entry["action"] == "job.end"]
    assert "recserve train als" in ended


def test_an_export_of_an_encoder_is_a_job_that_says_why_it_failed(visit: Opening, films_server: Served) -> None:
    page = visit("strategies").page
    field = page.get_by_label("Model to export")
    # What would be an option is no model.
    for source in ("--trust-remote-code", "/no/such/model"):
        field.fill(source)
        page.get_by_role("button", name="Export an encoder").click()
    page.get_by_role("button", name="Start", exact=True).click()
    job = page.get_by_role("heading", name="recserve export encoder /no/such/model").locator("..")
    expect(job.get_by_text("failed, started")).to_be_visible(timeout=120_000)
    ended = [
        entry for entry in audited(films_server.home) if entry["action"] == "job.end" and "export" in entry["what"]
    ]
    said = [(entry["what"], entry.get("outcome", "done")) for entry in ended]
    assert said == [("recserve export encoder /no/such/model", "failed")]


def test_a_dropped_file_is_shown_and_imported(visit: Opening, films_server: Served, films_client: Client) -> None:
    item = films_client.items.list(limit=1).items[0].id
    content = f"user_id,item_id,timestamp,note\n<b>dropper</b>,{item},2024-01-01T00:00:00Z,<i>x</i>\n"
    page = visit("data").page
    page.get_by_role("button", name="interactions", exact=True).click()
    file = FilePayload(name="../new log.csv", mimeType="text/csv", buffer=content.encode())
    transfer = page.evaluate_handle(
        "() => { const of = new DataTransfer(); of.items.add(new File(['a,b\\n1,2\\n'], 'other.csv')); return of }"
    )
    page.get_by_text("Drop a file here").dispatch_event("drop", {"dataTransfer": transfer})
    expect(page.get_by_label("Command")).to_have_value(re.compile(r"other\.csv"))
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose a file").click()
    chooser.value.set_files(file)
    expect(page.get_by_text("read as: utf-8, ',', header")).to_be_visible()
    expect(page.get_by_role("cell", name="<b>dropper</b>")).to_be_visible()
    page.get_by_role("button", name="Import", exact=True).click()
    page.get_by_role("alertdialog").get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("started: see Jobs under Strategies")).to_be_visible()
    jobs = visit("strategies").page
    expect(jobs.get_by_text("recorded 1 interactions of new_log.csv")).to_be_visible(timeout=60_000)
    assert [one["item"] for one in films_client.users.export("<b>dropper</b>").interactions] == [item]
    page.get_by_role("button", name="Count again").click()
    expect(page.get_by_role("region", name="Imports").get_by_role("cell", name="new_log.csv")).to_be_visible()
    words = [entry["what"] for entry in audited(films_server.home) if entry["action"] == "job.start"]
    assert any("interactions import" in what and "new_log.csv" in what for what in words)
    # The views of other tests count users.
    films_client.users.erase("<b>dropper</b>")


def test_a_slow_network_shows_the_slate_all_the_same(visit: Opening) -> None:
    page = visit("try").page
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", _SLOW)
    field = page.get_by_label("Find an item, or write a text and press Enter")
    field.fill("a voyage to a distant planet")
    field.press("Enter")
    expect(page.get_by_role("listitem")).to_have_count(10)


def test_without_a_home_nothing_can_be_changed(browser: Browser, films_server: Served, films_client: Client) -> None:
    item = films_client.items.list(limit=1).items[0].id
    with (
        console(films_server.grpc, films_server.metrics) as url,
        Visit(browser, url).open("catalogue") as visit,
    ):
        page = visit.page
        expect(page.get_by_role("tab")).to_have_count(5)
        open_item(page, item)
        expect(page.get_by_text("Open the console beside the home to change things.")).to_be_visible()
        expect(page.get_by_role("button", name="Save")).to_have_count(0)
        page.get_by_role("tab", name="Strategies").click()
        expect(page.get_by_text("Open the console beside the home to see evaluations")).to_be_visible()
        assert visit.faults == []


def test_a_server_that_dies_is_shown_and_its_return_is_too(visit: Opening, films_server: Served) -> None:
    page = visit("overview").page
    films_server.triton().kill()
    expect(page.get_by_role("alert")).to_contain_text("The server does not recommend")
    expect(page.get_by_role("status").first).to_contain_text("does not recommend")
    films_server.wait_for("server_restarted", timeout_s=60)
    expect(page.get_by_role("status").first).to_contain_text("is well", timeout=2 * PATIENCE_MS)
    expect(page.get_by_role("alert")).to_be_hidden()
    expect(page.get_by_text("Nothing to worry about")).to_be_visible()
