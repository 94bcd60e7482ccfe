from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from recserve_client.http.app import App, AppOptions
from support.fake_client import FakeClient


@pytest.fixture
def fake() -> FakeClient:
    """What the API asks."""
    return FakeClient()


@pytest.fixture
def http(fake: FakeClient) -> Iterator[TestClient]:
    """The API over `fake`."""
    app = App(fake.opened, AppOptions())
    with TestClient(app, "http://127.0.0.1:8080") as client:
        yield client
