"""The suite's own division into workers."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process runs all tests")
def test_tests_that_share_servers_run_in_one_worker(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@test_suite.py")
