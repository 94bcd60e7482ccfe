"""What all views share: client, what the server did lately, the home with its jobs and audit log, the visitor."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from recserve_client.client import AsyncClient
from recserve_console.audit import Audit
from recserve_console.jobs import Job, Jobs
from recserve_console.reads import Reads
from recserve_console.visitors import NotAllowedError, Sessions, Visitor
from recserve_console.watch.schema import Schema
from recserve_console.watch.watcher import Watcher
from recserve_server_ext.access.scopes import Scope


@dataclass
class Console:
    """The state of the console, which all pages of it share but for the visitor.

    Attributes:
        client: Client of the server.
        address: host:port of its gRPC.
        metrics: host:port of its metrics.
        home: Its home, or `None` where the console is not opened beside one: then nothing can be changed.
        sessions: Sessions of the visitors.
        visitor: Who looks.
        watcher: What the server did lately.
        schema: Fields and attributes of the catalogue.
        audit: The audit log of the home.
        jobs: Commands that run over the home.
        reads: Reads of the home that take long.
    """

    client: AsyncClient
    address: str
    metrics: str
    home: Path | None
    sessions: Sessions
    visitor: Visitor = field(init=False)
    watcher: Watcher = field(init=False)
    schema: Schema = field(init=False)
    audit: Audit | None = field(init=False)
    jobs: Jobs | None = field(init=False)
    reads: Reads = field(default_factory=Reads, init=False)

    def __post_init__(self) -> None:
        self.visitor = Visitor(self.sessions)
        self.watcher = Watcher(self.client, self.metrics)
        self.schema = Schema(self.client)
        self.audit = None if self.home is None else Audit(self.home)
        self.jobs = None if self.home is None or self.audit is None else Jobs(self.home, self.audit)

    def seen_by(self, visitor: Visitor) -> Console:
        """The same console, as one visitor sees it."""
        seen = copy(self)
        seen.visitor = visitor
        return seen

    def why_not(self, scope: Scope) -> str:
        """Why the visitor cannot change what needs a scope; empty where it can be changed."""
        if self.audit is None:
            return "Open the console beside the home to change things."
        return (
            "" if self.visitor.may_change(scope) else f"Log in with a key that has the scope {scope} to change things."
        )

    def check(self, scope: Scope) -> None:
        """Raise NotAllowedError unless the visitor may change what needs a scope."""
        if why := self.why_not(scope):
            raise NotAllowedError(why)

    def record(self, scope: Scope, action: str, what: str, outcome: str = "done") -> None:
        """Write a change into the audit log.

        Args:
            scope: Scope that the change needs.
            action: What is done, such as `item.delete`.
            what: What it is done to; never a user id.
            outcome: `done`, or what became of it.

        Raises:
            NotAllowedError: The visitor may not change this.
            OSError: The log cannot be written.
        """
        self.check(scope)
        assert self.audit is not None
        self.audit.write(action, what, outcome, by=self.visitor.name)

    def start(self, words: Sequence[str]) -> Job:
        """Start a job, which needs the scope admin; errors as of `check` and `Jobs.start`."""
        self.check(Scope.ADMIN)
        assert self.jobs is not None
        return self.jobs.start(words, by=self.visitor.name)
