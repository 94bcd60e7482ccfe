"""A large home: 270,000 items of made-up titles over the tiny encoder, and a million interactions of made-up users."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from recserve_export.catalogue.films import FilmsSource, films_path
from recserve_export.tabular.rows import RowError
from recserve_server_ext.common.workspace import Workspace

ITEMS: Final = 270_000
INTERACTIONS: Final = 1_000_000
_USERS: Final = 100_000
_YEAR_S: Final = 365 * 86_400
_NEWEST_S: Final = 1_790_000_000
_TYPES: Final = ("view", "click", "like", "purchase")


def make_large_home(home: Path, encoders: Path, folder: Path) -> Path:
    """Make it by the commands that a person would type.

    Args:
        home: Where to make it.
        encoders: A home with the encoder.
        folder: For the files that are imported.

    Returns:
        `home`.
    """
    shutil.copytree(Workspace(encoders).encoder, Workspace(home).encoder, symlinks=True)
    items, log = folder / "items.jsonl", folder / "log.csv"
    _write_items(items)
    _write_log(log)
    fields = ("--text", "title", "--text", "about", "--attribute", "genre:list", "--attribute", "year:int")
    _run(home, "catalogue", "import", str(items), *fields)
    _run(home, "interactions", "import", str(log), "--item-field", "item", "--type-field", "type")
    _run(home, "index", "build", "--precision", "fp32", "--engine", "scan")
    return home


def _run(home: Path, *words: str) -> None:
    program = [sys.executable, "-m", "recserve_client.cli.main", *words, "--home", str(home)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _write_items(path: Path) -> None:
    """Titles of films, then pairs of them, with the genre and year of the first."""
    films = [values for _, values in FilmsSource(films_path()).rows() if not isinstance(values, RowError)]
    others = np.random.default_rng(7).integers(len(films), size=ITEMS)
    with path.open("wb") as file:
        for place, other in enumerate(others.tolist()):
            film = films[place % len(films)]
            title = film["Title"] if place < len(films) else f"{film['Title']}: {films[other]['Title']} {place}"
            item = {"id": f"item-{place}", "title": title, "about": films[other]["Consensus"] or title}
            item |= {"genre": (film["Genre"] or "").split(", "), "year": int(film["Year"] or 1990)}
            file.write(msgspec.json.encode(item) + b"\n")


def _write_log(path: Path) -> None:
    """Users and items by Zipf's law with a flat head, over a year."""
    rng = np.random.default_rng(7)

    def drawn(count: int, head: int) -> list[int]:
        weights = 1 / (np.arange(count) + head)
        found: list[int] = rng.permutation(count)[rng.choice(count, INTERACTIONS, p=weights / weights.sum())].tolist()
        return found

    users, items = drawn(_USERS, 200), drawn(ITEMS, 50)
    types = rng.choice(_TYPES, INTERACTIONS, p=[0.6, 0.25, 0.1, 0.05]).tolist()
    times = (_NEWEST_S - rng.random(INTERACTIONS) * _YEAR_S).round(3).tolist()
    with path.open("w") as file:
        file.write("event_id,user_id,item,type,timestamp\n")
        for place, (user, item, kind, time_s) in enumerate(zip(users, items, types, times, strict=True)):
            file.write(f"e{place},u{user},item-{item},{kind},{time_s}\n")
