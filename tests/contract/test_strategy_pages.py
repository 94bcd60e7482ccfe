"""Every strategy has a page that says where its formula comes from, and when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_server_ext.strategies.registry import BUILT_IN

PAGES = Path(__file__).parents[2] / "docs/explanation/strategies"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_strategy_has_a_page_that_the_index_names(name: str) -> None:
    page = PAGES / f"{name.replace('_', '-')}.md"
    assert "**It fails**" in page.read_text()
    assert f"({page.name})" in (PAGES / "index.md").read_text()
