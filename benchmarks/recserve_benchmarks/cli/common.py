"""What the commands share: options, progress, and what they do with results."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from recserve_benchmarks.errors import BenchmarkError
from recserve_client.cli.console import note, out, progress
from recserve_client.errors import RecserveError
from recserve_export.cli.common import check_folder, explained
from recserve_export.cli.options import Precision
from recserve_server_ext.common.workspace import Workspace

Home = Annotated[Path, typer.Option(help="Folder with encoder and catalogue.")]
Items = Annotated[int, typer.Option(help="Texts of the catalogue to serve as items.", min=1000)]
RoundsOption = Annotated[int, typer.Option("--rounds", help="Rounds; figures are medians over them.", min=1)]
Quick = Annotated[bool, typer.Option("--quick", help="Few users and texts: to try it, not to quote it.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")]
Plot = Annotated[Path | None, typer.Option(help="Draw the figures into this PNG.")]


@dataclass(frozen=True)
class Output:
    """Where results go.

    Attributes:
        json_file: All figures, or `None`.
        plot: The picture, or `None`.
        html: The page, or `None`; for those that make one.
    """

    json_file: Path | None
    plot: Path | None
    html: Path | None = None

    @contextmanager
    def measuring(self) -> Iterator[Callable[[str, int, int], None]]:
        """Show a progress bar, without a terminal a line for each step; errors end the command with a line.

        Files that cannot be written end it before the measurement, with exit code 2.
        """
        for path in (self.json_file, self.plot, self.html):
            check_folder(path)
        with explained(BenchmarkError, RecserveError), progress("prepare", None) as bar:

            def show(what: str, count: int, total: int) -> None:
                task = bar.tasks[0]
                if not bar.console.is_terminal and what != task.description:
                    note(f"{task.elapsed or 0:7.1f} s  {what}")
                bar.update(bar.task_ids[0], description=what, completed=count, total=total)

            yield show

    def keep(self, results: dict[str, Any]) -> None:
        """Write the figures into the file for them."""
        if self.json_file is not None:
            self.json_file.write_text(json.dumps(results, indent=2) + "\n")

    def write(
        self,
        results: dict[str, Any],
        parts: Iterable[RenderableType],
        draw: Callable[[dict[str, Any], Path], None],
    ) -> None:
        """Print lines and tables, write the figures, and draw the picture."""
        for part in parts:
            out.print(part, highlight=False, soft_wrap=isinstance(part, str))
        self.keep(results)
        if self.plot is not None:
            draw(results, self.plot)


def encoder_of(home: Path, precision: Precision) -> tuple[Workspace, Path]:
    """A home and the folder of its encoder.

    Raises:
        EncoderError: Nothing was exported in that precision.
    """
    from recserve_server_ext.encoder.selection import choose_encoder

    workspace = Workspace(home)
    return workspace, choose_encoder(workspace, precision)
