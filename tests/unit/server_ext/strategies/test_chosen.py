"""The file in which an evaluation says which strategies are best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import write_json
from recserve_server_ext.strategies.parts.chosen import (
    Choice,
    Chosen,
    EvaluationFile,
    read_chosen,
    with_chosen,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    chosen = Chosen(cold=Choice("popular", {"window": "week"}), many=Choice("ease"))
    path = tmp_path / "evaluation.json"
    write_json(path, EvaluationFile(chosen=chosen, seconds={"ease": 1.0}, protocols={"time": {"ease": {}}}))
    assert read_chosen(path) == chosen


def test_without_a_file_nothing_is_chosen(tmp_path: Path) -> None:
    assert read_chosen(tmp_path / "evaluation.json") == Chosen()


@pytest.mark.parametrize("content", [b"{", b'{"chosen": {"many": {"strategy": 3}}}', b'{"chosen": {"some": null}}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evaluation.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"evaluation\.json cannot be read: .*; evaluate again: recserve evaluate"):
        read_chosen(path)


def test_options_of_the_settings_win() -> None:
    settings: dict[str, dict[str, Any]] = {"auto": {"few": {"strategy": "text"}}, "blend": {"prior": 1.0}}
    chosen = {"few": {"strategy": "ease"}, "many": {"strategy": "als"}}
    assert with_chosen(settings, chosen) == {
        "auto": {"few": {"strategy": "text"}, "many": {"strategy": "als"}},
        "blend": {"prior": 1.0},
    }
