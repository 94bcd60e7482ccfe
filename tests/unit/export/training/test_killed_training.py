"""A training that is killed publishes nothing by halves, and the next one goes on; nightly/kills does it 20 times."""

from __future__ import annotations

from pathlib import Path

from recserve_export.training.publish import names_of
from recserve_export.training.run.journal import read_state
from support.crowds import make_crowd_home
from support.training_kills import LONG_S, check_whole, kill_when, train_all


def test_a_killed_training_goes_on(tmp_path: Path) -> None:
    workspace = make_crowd_home(tmp_path)
    assert kill_when(train_all(tmp_path), lambda: bool((state := read_state(workspace.spaces)) and state.finished))
    assert check_whole(workspace) == {}
    state = read_state(workspace.spaces)
    assert state is not None
    finished = state.finished
    assert finished
    assert train_all(tmp_path).wait(LONG_S) == 0
    now = check_whole(workspace)
    assert sorted(now) == sorted(names_of("all"))
    assert finished.items() <= now.items()
    assert not list(workspace.spaces.glob("*/.*.tmp"))
