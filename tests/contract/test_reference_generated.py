"""The generated pages of docs/reference are what their generators write."""

from __future__ import annotations

import pytest

import reference_pages
from support.markdown import DOCS, is_generated


@pytest.mark.parametrize("page", reference_pages.PAGES)
def test_a_page_is_up_to_date(page: str) -> None:
    written = (reference_pages.REFERENCE / page).read_text(encoding="utf-8")
    assert written == reference_pages.content(page), "run: python docs/tools/reference_pages.py"


def test_no_other_page_says_that_it_is_generated() -> None:
    found = {
        page.relative_to(reference_pages.REFERENCE).as_posix() for page in DOCS.rglob("*.md") if is_generated(page)
    }
    assert found == set(reference_pages.PAGES)
