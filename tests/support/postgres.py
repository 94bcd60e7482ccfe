"""A private PostgreSQL cluster for tests, in a temporary folder, from Debian's package (or any in the usual places)."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

_USER = "postgres"
_LIMIT_S = 60


class NoPostgresError(Exception):
    """No cluster can be started here; the message says why."""


@dataclass
class Postgres:
    """A running cluster that listens on a socket in its own folder.

    Attributes:
        folder: Holds the socket, the data and the log.
        programs: Folder of initdb and pg_ctl.
        prefix: What a command starts with, so that it does not run as root.
    """

    folder: Path
    programs: Path
    prefix: list[str]

    def url(self) -> str:
        """URL of its database."""
        return f"postgresql://{_USER}@/postgres?host={self.folder}"

    def empty(self) -> str:
        """URL of a database without any tables: what an earlier test left in it is dropped."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        return self.url()

    def another(self, name: str) -> str:
        """URL of a new database that `empty` leaves alone."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return f"postgresql://{_USER}@/{name}?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses='' -c unix_socket_directories={self.folder}"
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-l", f"{self.folder}/log", "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` = connections are cut, `immediate` = as in a crash."""
        self.run("pg_ctl", "-D", f"{self.folder}/data", "-m", mode, "-w", "stop")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of its programs."""
        command = [*self.prefix, str(self.programs / program), *arguments]
        # Not through pipes: the server would inherit them and keep them open.
        with (self.folder / "commands.log").open("ab") as log:
            ended = subprocess.run(command, stdout=log, stderr=log, cwd=self.folder, timeout=_LIMIT_S, check=False)
        if ended.returncode:
            logs = [path.read_text() for path in (self.folder / "commands.log", self.folder / "log") if path.exists()]
            raise NoPostgresError(f"{program} ended with {ended.returncode}:\n{''.join(logs)}")


@contextmanager
def postgres_cluster() -> Iterator[Postgres]:
    """Make a cluster, start it, and leave nothing of it behind.

    Raises:
        NoPostgresError: PostgreSQL is not installed, or does not start here.
    """
    folder = Path(tempfile.mkdtemp(prefix="recserve-pg-"))  # short: the path of a socket has at most 107 bytes
    try:
        cluster = Postgres(folder, _programs(), _prefix(folder))
        cluster.run(
            "initdb", "-D", f"{folder}/data", "-U", _USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"
        )
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop("immediate")
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    on_path = shutil.which("initdb")
    if found:
        return found[-1].parent
    if on_path is None:
        raise NoPostgresError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return Path(on_path).resolve().parent


def _prefix(folder: Path) -> list[str]:
    """PostgreSQL refuses to run as root: then it runs as the user that Debian's package made."""
    if os.geteuid() != 0:
        return []
    try:
        owner = pwd.getpwnam(_USER)
    except KeyError:
        raise NoPostgresError(f"running as root, and there is no user {_USER} to run PostgreSQL as") from None
    if shutil.which("runuser") is None:
        raise NoPostgresError(f"running as root, and there is no runuser to become {_USER}")
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    return ["runuser", "-u", _USER, "--"]
