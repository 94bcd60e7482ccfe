"""Two servers over one interaction store."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from support.served import Served, served


def home_of_two(tiny_home: Path, folder: Path, interactions: str) -> Path:
    """A copy of a home in a folder, with its interactions at a URL; empty = in a file of its own."""
    home = folder / "home"
    ignored = shutil.ignore_patterns("run", "interactions.db*", "pseudonym.key")
    shutil.copytree(tiny_home, home, symlinks=True, ignore=ignored)
    (home / "settings.toml").write_text(f'[users]\nstore = "{interactions}"\n')
    return home


@contextmanager
def both_served(home: Path) -> Iterator[tuple[Served, Served]]:
    """Both of them."""
    config = ("--config", str(home / "settings.toml"))
    with served(home, *config) as one, served(home, *config) as other:
        yield one, other


def film_ids(home: Path) -> list[str]:
    """Ids of the catalogue."""
    with CatalogueStore(Workspace(home).store) as store:
        return [row.id for row in store.page("", 10)[1]]
