"""The suite's own division into workers."""

from __future__ import annotations

import pytest


def test_tests_that_share_servers_run_in_one_worker(request: pytest.FixtureRequest) -> None:
    if not getattr(request.config.option, "loadgroup", False):
        pytest.skip("tests are not divided by groups")
    assert request.node.nodeid.endswith("@test_suite.py")
