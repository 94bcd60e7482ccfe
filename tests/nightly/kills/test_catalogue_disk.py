"""A full disk below the catalogue: nothing is lost, and changes are taken again when there is room."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from recserve_client.contract import ErrorKind, RequestError
from support.edited import Edited


def film(item_id: str, title: str) -> dict[str, Any]:
    return {"id": item_id, "texts": {"title": title}}


def test_a_full_disk_refuses_changes_and_takes_them_when_there_is_room(small_disk: Path, tmp_path: Path) -> None:
    edited = Edited(tmp_path, small_disk / "catalogue.db")
    acknowledged: dict[str, str] = {}

    def fill() -> None:
        for number in range(100_000):
            title = f"{number} " + "x" * 3000
            edited.change("upsert", [film(f"n{number}", title)], f"r{number}")
            acknowledged[f"n{number}"] = title

    with pytest.raises(RequestError, match="disk") as caught:
        fill()
    assert caught.value.kind is ErrorKind.UNAVAILABLE
    assert len(acknowledged) > 20
    assert stored(edited) == acknowledged
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    assert edited.statuses("upsert", film("more", "there is room again")) == ["created"]
    assert stored(edited) == {**acknowledged, "more": "there is room again"}
    edited.store.close()


def stored(edited: Edited) -> dict[str, str]:
    return {item.id: item.texts["title"] for item in edited.store.items() if not item.id.startswith("i")}
