"""A server with films, users and an evaluation of its own, the console beside it, and a browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from recserve_client import Client, ClientOptions, NewInteraction, NewItem, interaction
from recserve_client.errors import InvalidRequest
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.files import write_json
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.trained import Origin, publish_space
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.strategies.parts.chosen import Choice, Chosen, EvaluationFile
from support.answers import log_of, plain
from support.console import DESK, EVIL, EVIL_ID, EVIL_USER, USER, Look, Visit, console, system_browser
from support.served import Served, served
from support.tiny_home import copy_home

#: Days of earlier answers, and answers of each.
_DAYS, _A_DAY = 12, 40
_DAY_S = 86_400


def _evaluation() -> EvaluationFile:
    """Made up, to be drawn: the names are markup."""

    def figure(mean: float) -> dict[str, object]:
        return {"kind": "strategy", "ndcg_at_10": {"mean": mean, "se": 0.01}}

    against = {"reference": "text", "difference": 0.05, "low": 0.01, "high": 0.09, "p": 0.01, "p_corrected": 0.02}
    systems = {"text": figure(0.1), EVIL: figure(0.15) | {"against": against}}
    data = {"users": 2, "interactions": 20, "evaluated": "2026-01-01T00:00:00+00:00"}
    return EvaluationFile(data=data, protocols={"time": systems}, chosen=Chosen(many=Choice("text")))


def _train(home: Path) -> None:
    """Two versions of a space that no test trains, made up: the second one lost against the first."""
    lost = {"serves": False, "why": f"worse, {EVIL}", "champion": EVIL, "users": 400, "ndcg": 0.061}
    lost |= {"champion_ndcg": 0.074, "low": -0.021, "high": -0.005}
    judged: tuple[dict[str, object], ...] = ({"serves": True, "why": "nothing was trained before"}, lost)
    for said in judged:
        vectors = np.eye(1, 8, dtype=np.float32)
        publish_space(Workspace(home).spaces, "item2vec", ["1"], vectors, origin=Origin(made_from={"judged": said}))


def _answer_earlier(home: Path, films: list[str], now: float) -> list[NewInteraction]:
    """Log answers of the days before, of two strategies and to nobody known; the clicks that some of them led to."""
    clicks = []
    with InteractionStore(Workspace(home).interactions, create=True) as store:
        for day in range(1, _DAYS + 1):
            then = now - day * _DAY_S
            log = log_of(store, now=then, plain=1.0)
            for number in range(_A_DAY):
                strategy = ("text", "popular")[number % 2]
                name = f"{day}-{number}"
                log.offer(plain(name, films[:5], strategy=strategy), None)
                if (day + number) % 3 == 0:
                    clicked = films[number % 4]
                    clicks.append(interaction(USER, "click", clicked, recommendation_id=name, timestamp=then + 60))
            log.close()
    return clicks


@pytest.fixture(scope="session")
def films_server(tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real server over films, with two simulated users, an item and a user whose words are markup."""
    home = copy_home(tiny_home, tmp_path_factory.mktemp("browser") / "home")
    write_json(Workspace(home).evaluation, _evaluation())
    _train(home)
    with CatalogueStore(Workspace(home).store) as store:
        films = [row.id for row in store.page("", 20)[1]]
    clicks = _answer_earlier(home, films, time.time())
    with served(home) as server, Client(server.grpc, ClientOptions(deadline_s=60)) as client:
        texts = {"title": EVIL, "genre": EVIL}
        evil = NewItem(EVIL_ID, texts, {"title": EVIL, "genre": [EVIL], "<i>": EVIL})
        assert client.items.upsert([evil]).results[0].status == "created"
        now = time.time()
        recorded = [
            interaction(user, "view", film, timestamp=now - 3600 * place)
            for user in (USER, EVIL_USER)
            for place, film in enumerate([*films[:8], EVIL_ID])
        ]
        recorded.append(interaction(EVIL_USER, "search", text=EVIL, timestamp=now))
        assert {result.status for result in client.interactions.record(recorded + clicks).results} == {"recorded"}
        for user in (USER, EVIL_USER):
            slate = client.recommend_for(user, k=5)
            clicked = interaction(user, "click", slate.items[0].id, recommendation_id=slate.recommendation_id)
            client.interactions.record([clicked])
            with pytest.raises(InvalidRequest):
                client.recommend_for(user, fields=[EVIL])
        yield server


@pytest.fixture(scope="session")
def console_url(films_server: Served) -> Iterator[str]:
    """The console beside that home."""
    with console(films_server.grpc, films_server.metrics, films_server.home) as url:
        yield url


# For a module alone: while it is open, this process cannot run another event loop.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """The browser of this system."""
    with system_browser() as found:
        yield found


@pytest.fixture
def visit(browser: Browser, console_url: str) -> Iterator[Callable[..., Visit]]:
    """Opens a view; a page must end without an error, a dialog, or a request to another place."""
    opened: list[Visit] = []

    def opening(view: str, look: Look = DESK) -> Visit:
        found = Visit(browser, console_url, look).open(view)
        opened.append(found)
        return found

    yield opening
    for one in opened:
        broken = one.page.evaluate("window.broken")
        with one:
            assert one.faults == []
            assert one.dialogs == []
            assert broken is None
            assert one.elsewhere() == []


@pytest.fixture(scope="session")
def pictures(pytestconfig: pytest.Config) -> Path:
    """Where screenshots are kept."""
    assert pytestconfig.cache is not None
    return pytestconfig.cache.mkdir("console")
