from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from recserve_client.client import AsyncClient
from recserve_client.contract import CatalogueItem, ItemsFound, models, pack
from recserve_client.options import ClientOptions
from recserve_console.watch.schema import Schema, title_field
from recserve_console.watch.watcher import Look, Watcher, together
from support.inference_server import InferenceServer
from support.metrics_page import serving, triton_page

ONCE = ClientOptions(tries=1)


@asynccontextmanager
async def watcher_of(address: str, metrics: str) -> AsyncIterator[Watcher]:
    async with AsyncClient(address, ONCE) as client:
        yield Watcher(client, metrics)


async def looks(address: str, metrics: str, count: int) -> Watcher:
    async with watcher_of(address, metrics) as watcher:
        for _ in range(count):
            watcher.add(await watcher._look())
        return watcher


def test_rates_are_those_between_two_looks(address: str) -> None:
    pages = [
        triton_page("recommend", request_success=10, queue_duration_us=0),
        triton_page("recommend", request_success=30, queue_duration_us=100_000),
    ]
    with serving(*pages) as metrics:
        watcher = asyncio.run(looks(address, metrics.address, 2))
    first, second = watcher.recent
    assert first.users_per_s is None
    assert second.users_per_s is not None
    assert second.users_per_s > 0
    assert second.queue_ms == pytest.approx(5.0)
    assert watcher.is_well
    assert watcher.slate is not None
    assert watcher.well_s is not None


@pytest.mark.parametrize(("counts", "has_answered"), [((10, 10), False), ((10, 12), True), ((10, 2), True)])
def test_the_last_inference_of_a_model_is_told_by_its_count(
    address: str, counts: tuple[int, int], has_answered: bool
) -> None:
    with serving(*(triton_page("items", request_success=count) for count in counts)) as metrics:
        seen = asyncio.run(looks(address, metrics.address, len(counts))).seen
    assert list(seen) == ["items"]
    assert (seen["items"].last_s is not None) == has_answered


def test_a_server_that_fails_is_not_well_though_its_metrics_are_there(server: InferenceServer, address: str) -> None:
    server.refusals = [(grpc.StatusCode.INTERNAL, "the stub is not healthy")]
    with serving(triton_page("recommend", request_success=1)) as metrics:
        watcher = asyncio.run(looks(address, metrics.address, 1))
    assert watcher.is_well is False
    assert "the stub is not healthy" in watcher.fault
    assert watcher.page is not None


def test_metrics_that_are_away_are_told(address: str) -> None:
    watcher = asyncio.run(looks(address, "127.0.0.1:1", 1))
    assert watcher.is_well
    assert "127.0.0.1:1" in watcher.metrics_fault


def test_a_minute_is_kept_when_the_next_one_begins(address: str) -> None:
    async def kept() -> Watcher:
        async with watcher_of(address, "") as watcher:
            for second in range(0, 130, 2):
                watcher.add(Look(second, True, float(second), float(second), 1.0, 0.0, None))
            return watcher

    watcher = asyncio.run(kept())
    assert [look.time_s for look in watcher.minutes] == [0, 60]
    assert watcher.minutes[0].p50_ms == 29.0
    assert watcher.minutes[0].queue_ms is None


def test_together_is_well_only_where_all_were() -> None:
    assert together([Look(0, True, 1.0), Look(2, True, 3.0)]).is_well
    broken = together([Look(0, True, 1.0), Look(2, False)])
    assert not broken.is_well
    assert broken.p50_ms == 1.0


@pytest.mark.parametrize(
    ("texts", "title"),
    [
        (["genre", "title"], "title"),
        (["class", "movie_title"], "movie_title"),
        (["brand", "name"], "name"),
        (["text"], "text"),
        ([], ""),
    ],
)
def test_the_title_is_found_by_its_name(texts: list[str], title: str) -> None:
    assert title_field(texts) == title


def test_values_come_most_frequent_first_and_long_texts_not_at_all(server: InferenceServer, address: str) -> None:
    items = [
        CatalogueItem("a", {"title": "A"}, {"genre": ["Drama", "War"], "about": "x" * 100}, True, 1),
        CatalogueItem("b", {"title": "B"}, {"genre": ["War"], "year": 1990}, True, 1),
    ]
    server.answers[models.ITEMS] = pack(ItemsFound(1, items))

    async def read() -> Schema:
        async with AsyncClient(address, ONCE) as client:
            schema = Schema(client)
            await schema.refresh()
            await schema.refresh()
            return schema

    schema = asyncio.run(read())
    assert schema.title == "title"
    assert schema.values == {"about": [], "genre": ["War", "Drama"], "year": [1990]}
    assert schema.is_list("genre")
    assert not schema.is_list("year")
    assert len(server.requests) == 1
