"""A running server's folder is its own; those left behind go."""

from __future__ import annotations

from pathlib import Path

import pytest

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.supervisor.run_folder import take_run_folder


def test_it_cannot_be_taken_twice(tmp_path: Path) -> None:
    taken = take_run_folder(tmp_path, "8001")
    with pytest.raises(LaunchError, match=r"another recserve serve runs from .*8001; .*--grpc-port"):
        take_run_folder(tmp_path, "8001")
    taken.release()
    take_run_folder(tmp_path, "8001").release()


def test_folders_of_ended_servers_go_and_those_of_running_ones_stay(tmp_path: Path) -> None:
    running, ended = take_run_folder(tmp_path, "1"), take_run_folder(tmp_path, "2")
    (ended.path / "models").mkdir()
    ended.release()
    (tmp_path / "3").mkdir()
    taken = take_run_folder(tmp_path, "4")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["1", "4"]
    for folder in (running, taken):
        folder.release()


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(LaunchError, match=r"cannot write .*run"):
        take_run_folder(tmp_path / "run", "1")
