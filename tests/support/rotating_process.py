"""Rotates the key until it is killed at a named point; run as a program with the store and the key file as arguments.

For each line on standard input, the name of a point, it forks a process that rotates the key and kills itself with
SIGKILL when it comes to the point. The line that comes back on standard output is `killed`, or `done` where it did not
come to the point. The fork saves what starting Python costs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recserve_server_ext.interactions import key_file, key_rotation
from recserve_server_ext.interactions.store import InteractionStore

#: Where a rotation can be killed, in their order.
POINTS = (
    "key is aside", "key is added", "first page", "marks are read", "before the commit", "after the commit",
    "log is empty", "end",
)  # fmt: skip


def main(where: str, keys: str) -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _rotate(where, Path(keys), line.strip())
            os._exit(0)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if killed else f"done {status}", flush=True)


def _rotate(where: str, keys: Path, point: str) -> None:
    def die(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> None:
            function(*arguments, **named)
            die()

        return run

    rotation: Any = key_rotation
    store = InteractionStore(where if "://" in where else Path(where))
    match point:
        case "key is aside":
            key_file.os.replace = die  # type: ignore[attr-defined]  # the module's own name for it
        case "key is added":
            rotation.add_key = after(rotation.add_key)
        case "marks are read":
            rotation._renew_marks = die
        case "before the commit":
            rotation.next_revision = after(rotation.next_revision)
        case "after the commit":
            rotation._clear = die
        case "log is empty":
            store.database.purge = after(store.database.purge)  # type: ignore[method-assign]
    key_rotation.rotate(store, keys, die if point == "first page" else lambda rows: None)
    store.close()
    if point == "end":
        die()


if __name__ == "__main__":
    main(*sys.argv[1:])
