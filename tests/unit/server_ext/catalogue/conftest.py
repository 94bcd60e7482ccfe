"""What the tests of the catalogue share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _every_look_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_server_ext.catalogue.live._LOOK_S", 0.0)
