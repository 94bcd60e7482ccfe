"""Shared fixtures: one tiny home and one served real Triton for all tests that only send requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.served import Served, served
from support.tiny_home import make_tiny_home
from support.wire import Wire


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the tiny encoder, some films and their snapshot; not to be changed."""
    return make_tiny_home(tmp_path_factory.mktemp("tiny") / "home")


@pytest.fixture(scope="session")
def tiny_server(tiny_home: Path) -> Iterator[Served]:
    """A real Triton over the tiny home, for tests that leave it as it was."""
    with served(tiny_home) as server:
        yield server


@pytest.fixture(scope="session")
def wire(tiny_server: Served) -> Wire:
    """Raw calls to the tiny server."""
    return Wire(tiny_server.grpc)
