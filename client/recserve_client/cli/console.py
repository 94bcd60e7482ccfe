"""What every sub-command prints with: one console for results, one for progress and errors."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

#: Results go to standard output, everything else to standard error, so that output can be piped.
out = Console(width=None if sys.stdout.isatty() else 100)
err = Console(stderr=True)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print one error line on standard error and leave with this exit code."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def note(message: str) -> None:
    """A line for the person at the terminal (standard error)."""
    err.print(escape(message), soft_wrap=True, highlight=False)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Progress]:
    """A progress bar on standard error for work over two seconds; its only task has id 0."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=False) as bar:
        bar.add_task(what, total=total)
        yield bar
