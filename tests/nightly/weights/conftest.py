"""One demo for all tests of the real weights: its export is the longest part of them."""

from __future__ import annotations

import pytest

from support.demo import Demo, demo_from_nothing


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """The real films, encoded and indexed by `recserve demo` from nothing; not to be changed."""
    return demo_from_nothing(tmp_path_factory.mktemp("demo"))
