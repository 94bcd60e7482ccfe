"""Records interactions until it is killed; run as a program with the store as argument.

For each line on standard input it forks a process that records with several threads and writes the event ids of each
acknowledged batch as a line on standard output. The fork saves what starting Python costs, so that it can be killed
often. The first line of a fork is `pid N`, the last one, after its end, `dead`.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path

from recserve_server_ext.interactions.interaction import Interaction
from recserve_server_ext.interactions.pseudonyms import Pseudonyms
from recserve_server_ext.interactions.store import InteractionStore

THREADS = 3
BATCH = 3


def main(where: str) -> None:
    for number, _ in enumerate(sys.stdin):
        child = os.fork()
        if child == 0:
            _say(f"pid {os.getpid()}")
            with InteractionStore(where if "://" in where else Path(where)) as store:
                threads = [threading.Thread(target=_record, args=(store, number, n)) for n in range(THREADS)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            os._exit(1)
        os.waitpid(child, 0)
        _say("dead")


def _record(store: InteractionStore, number: int, thread: int) -> None:
    user = Pseudonyms(b"k" * 32).of(f"user {thread}")
    before: list[Interaction] = []
    for n in itertools.count():
        ids = [f"{number}-{thread}-{n}-{k}" for k in range(BATCH)]
        batch = [Interaction(user=user, type="view", timestamp=n, item=one, event_id=one) for one in ids]
        store.record([*before, *batch])  # the one before is sent again
        _say("ack " + " ".join(ids))
        before = batch


def _say(line: str) -> None:
    os.write(1, line.encode() + b"\n")  # in one piece: shorter than a pipe's buffer


if __name__ == "__main__":
    main(sys.argv[1])
