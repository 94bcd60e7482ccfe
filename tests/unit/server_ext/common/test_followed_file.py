"""A file that is followed: read again when it was replaced, and kept where it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.followed_file import FollowedFile


def read(path: Path) -> list[str]:
    text = path.read_text() if path.is_file() else ""
    if text == "{":
        raise ConfigError(f"{path} cannot be read")
    return [text]


def test_the_file_is_read_again_when_it_was_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recserve_server_ext.common.followed_file._LOOK_S", 0.0)
    path = tmp_path / "some.json"
    file = FollowedFile(path, read)
    assert file.content() == [""]
    assert file.content() is file.content()
    path.write_text("one")
    found = file.content()
    assert found == ["one"]
    assert file.content() is found
    path.write_text("{")
    assert file.content() is found
    assert "some.json cannot be read" in caplog.text
    path.unlink()
    assert file.content() == [""]


def test_a_file_that_cannot_be_used_at_first_is_refused(tmp_path: Path) -> None:
    (tmp_path / "some.json").write_text("{")
    with pytest.raises(ConfigError):
        FollowedFile(tmp_path / "some.json", read)
