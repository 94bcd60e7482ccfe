"""What the commands of `recserve bench` share: files checked beforehand, progress, tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from recserve_client.cli.console import fail, out, progress


def check_folders(*paths: Path | None) -> None:
    """End with exit code 2 where a file to write has no folder: better before the measurement than after it."""
    for path in paths:
        if path is not None and not path.absolute().parent.is_dir():
            fail(f"cannot write {path}: there is no folder {path.parent}", code=2)


@contextmanager
def steps() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar; yields what says what is going on, how much of it is done, and of how much."""
    with progress("prepare", None) as bar:

        def done(what: str, count: int, total: int) -> None:
            bar.update(bar.task_ids[0], description=what, completed=count, total=total)

        yield done


def print_results(parts: Iterable[RenderableType], results: dict[str, Any], json_file: Path | None) -> None:
    """Print lines and tables, and write all figures where they are wanted."""
    for part in parts:
        out.print(part, highlight=False, soft_wrap=isinstance(part, str))
    if json_file is not None:
        write_json(results, json_file)


def write_json(results: dict[str, Any], json_file: Path) -> None:
    """Write all figures into a file."""
    json_file.write_text(json.dumps(results, indent=2) + "\n")
