"""`recserve train all` in a process of its own, killed; and what must be true of the home afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.index.pointers import current
from recserve_server_ext.index.snapshot import Snapshot
from recserve_server_ext.index.trained_versions import current_spaces, kept_versions

_LOOK_S = 0.02
LONG_S = 300.0


def train_all(home: Path) -> subprocess.Popen[bytes]:
    """Start it."""
    command = [sys.executable, "-m", "recserve_client.cli.main", "train", "all", "--home", str(home)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], is_time: Callable[[], bool]) -> bool:
    """Kill a process as soon as something is so; whether it still ran."""
    while process.poll() is None:
        if is_time():
            process.kill()
            process.wait()
            return True
        with suppress(subprocess.TimeoutExpired):
            process.wait(_LOOK_S)
    return False


def check_whole(workspace: Workspace) -> dict[str, str]:
    """Nothing is half published: every version and the snapshot verify. Version of each space that is current."""
    versions = kept_versions(workspace.spaces, verify=True)
    assert not [one.fault for one in versions if one.fault]
    now = current_spaces(workspace.spaces)
    assert set(now.values()) <= {one.folder for one in versions}
    snapshot = Snapshot.load(current(workspace.snapshots))
    assert set(snapshot.manifest.trained.items()) <= {(one.space, one.folder.name) for one in versions}
    return {name: folder.name for name, folder in now.items()}
