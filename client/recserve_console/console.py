"""What all views share: the client, what the server did lately, and the home with its jobs and its audit log."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from recserve_client.client import AsyncClient
from recserve_console.audit import Audit
from recserve_console.jobs import Jobs
from recserve_console.watch.schema import Schema
from recserve_console.watch.watcher import Watcher


@dataclass
class Console:
    """The state of the console, which all pages of it share.

    Attributes:
        client: Client of the server.
        address: host:port of its gRPC.
        metrics: host:port of its metrics.
        home: Its home, or `None` where the console is not opened beside one: then nothing can be changed.
        watcher: What the server did lately.
        schema: Fields and attributes of the catalogue.
        audit: The audit log of the home.
        jobs: Commands that run over the home.
    """

    client: AsyncClient
    address: str
    metrics: str
    home: Path | None
    watcher: Watcher = field(init=False)
    schema: Schema = field(init=False)
    audit: Audit | None = field(init=False)
    jobs: Jobs | None = field(init=False)

    def __post_init__(self) -> None:
        self.watcher = Watcher(self.client, self.metrics)
        self.schema = Schema(self.client)
        self.audit = None if self.home is None else Audit(self.home)
        self.jobs = None if self.home is None or self.audit is None else Jobs(self.home, self.audit)
