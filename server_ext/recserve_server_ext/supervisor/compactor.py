"""Compaction: a new snapshot is made when enough of the catalogue has changed since the published one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.config.milvus import MilvusSettings
from recserve_server_ext.index.manifest import read_manifest
from recserve_server_ext.index.pointers import current
from recserve_server_ext.supervisor.background import Background
from recserve_server_ext.supervisor.event_log import EventLog

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.store import CatalogueStore

#: Time from a failed compaction to the next.
_PAUSE_S: Final = 60.0


class Compactor:
    """Runs `recserve index compact` in a process of its own, one at a time and with low priority."""

    def __init__(
        self,
        snapshots: Path,
        store: Callable[[], CatalogueStore],
        command: Sequence[str],
        after: int,
        log: EventLog,
    ) -> None:
        self._snapshots = snapshots
        self._open = store
        self._command = Background(command)
        self._after = after
        self._log = log
        self._not_before = 0.0
        self._mark: object = None

    def check(self) -> None:
        """Start a compaction that is due, or note the end of the running one; never raises, never waits."""
        if self._command.is_running:
            self._collect()
        elif time.monotonic() >= self._not_before:
            try:
                due = self._pending()
            except ServerError as error:
                self._failed(str(error))
                return
            if due >= self._after:
                self._log("compaction_started", changes=due)
                self._command.start()

    def stop(self) -> None:
        """End the running compaction; the next one removes what it left unpublished."""
        self._command.stop()

    def _pending(self) -> int:
        """Items changed since the published snapshot; 0 where nothing was committed since the last check."""
        store = self._open()
        mark = (store.mark(), current(self._snapshots).name)
        if mark == self._mark:
            return 0
        self._mark = mark
        return store.pending(read_manifest(current(self._snapshots), verify=False).revision)

    def _collect(self) -> None:
        fault = self._command.ended()
        if fault is None:
            return
        self._mark = None
        if fault:
            self._failed(fault)
        else:
            self._log("compacted", snapshot=current(self._snapshots).name)

    def _failed(self, fault: str) -> None:
        self._log("compaction_failed", fault=fault.replace("\n", " | "), next_s=_PAUSE_S)
        self._not_before = time.monotonic() + _PAUSE_S
        self._mark = None


def compact_command(home: Path, store: str, milvus: MilvusSettings) -> list[str]:
    """The command that makes the snapshot with the served encoder, in one thread: serving keeps the other cores."""
    named = ["--milvus-uri", milvus.uri, "--milvus-token-file", milvus.token_file] if milvus.uri else []
    program = [sys.executable, "-m", "recserve_client.cli.main", "index", "compact"]
    return [*program, "--home", str(home), "--store", store, "--threads", "1", *named]
