"""Two servers over the same stores."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from support.served import Served


class Pair(NamedTuple):
    """Both servers.

    Attributes:
        one: The first.
        other: The second.
        catalogue: Where their items are.
        interactions: Where the interactions are.
    """

    one: Served
    other: Served
    catalogue: Path | str
    interactions: Path | str


class PostgresHome(NamedTuple):
    """A home whose stores are in PostgreSQL.

    Attributes:
        catalogue: URL of the catalogue store.
        interactions: URL of the interaction store.
    """

    home: Path
    catalogue: str
    interactions: str

    @property
    def settings(self) -> str:
        """TOML of a server over it."""
        return f'store = "{self.catalogue}"\n[users]\nstore = "{self.interactions}"\n'
