"""Console output of all sub-commands: results on standard output, progress and errors on standard error."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from rich.progress import Progress

#: Results alone go to standard output, so that it can be piped.
out = Console(width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True)
#: Exit code of a command that SIGTERM ended.
TERMINATED: Final = 128 + signal.SIGTERM


def visible(text: str) -> str:
    """Text whose control characters are escaped, so that none reaches the terminal; line breaks stay."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print an error line on standard error, and exit with this code."""
    err.print(f"[bold red]error:[/] {escape(visible(message))}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


@contextmanager
def explained(*expected: type[Exception], code: int = 1) -> Iterator[None]:
    """Print one of these errors as one line, and exit with this code."""
    try:
        yield
    except expected as error:
        fail(str(error), code=code)


def note(message: str) -> None:
    """Print a line for the user on standard error."""
    err.print(escape(visible(message)), soft_wrap=True, highlight=False)


def tell_ready(file: Path | None, **addresses: str) -> None:
    """Write the addresses and the id of this process to the file that says when it is ready, if there is one."""
    if file is not None:
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        aside.write_text(json.dumps({**addresses, "pid": os.getpid()}) + "\n")
        aside.replace(file)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Progress]:
    """A progress bar on standard error with a single task, whose id is 0: done of all, rate, time spent and left."""
    # Here, since no other command shall wait for their import.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Things done in a second; nothing before the first step, or where there is no total."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if speed is None or task.total is None:
                return Text("")
            return Text(f"{speed:,.0f}/s" if speed >= 1 else f"{speed:.2g}/s")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("" if total is None else "left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=False) as bar:
        bar.add_task(what, total=total)
        yield bar
