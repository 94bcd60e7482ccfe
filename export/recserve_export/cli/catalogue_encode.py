"""`recserve catalogue encode`: vectors of a catalogue in Parquet files, here or on Ray."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import fail, out, progress
from recserve_export.cli.common import Precision, explained
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace


class Runner(StrEnum):
    """Values of `--engine`."""

    LOCAL = "local"
    RAY = "ray"


def encode(
    source: Annotated[Path, typer.Option("--input", help="A Parquet file, or a folder of them.")],
    output: Annotated[Path, typer.Option(help="Folder of the vectors; a job that was stopped goes on in it.")],
    home: Annotated[Path, typer.Option(help="Folder of the encoder.")] = DEFAULT_HOME,
    engine: Annotated[Runner, typer.Option(help="Who does it.")] = Runner.LOCAL,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster [default: one is started here].")] = None,
    precision: Annotated[Precision, typer.Option(help="Encoder; auto: the one that is served.")] = Precision.AUTO,
    id_field: Annotated[str, typer.Option(help="Column of the item id.")] = "id",
    text: Annotated[list[str] | None, typer.Option(help="Text field, NAME or NAME=WEIGHT; once for each.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--map", help="NAME=COLUMN where the column has another name.")
    ] = None,
) -> None:
    """Write a row (id, vector, error, made_from) for each input row; what is no item has an error and no vector."""
    with explained(OSError):
        from recserve_export.bulk_encoding.job import Outcome, prepare, remove_leftovers
        from recserve_export.bulk_encoding.runners import run_locally, run_on_ray
        from recserve_export.catalogue.mapping import mapping_from_options
        from recserve_server_ext.encoder.selection import choose_encoder

        if ray_address is not None and engine is Runner.LOCAL:
            fail("--ray-address needs --engine ray", code=2)
        encoder = choose_encoder(Workspace(home), precision.value).resolve()
        mapping = mapping_from_options(id_field=id_field, texts=text or (), columns=columns or ())
        job, pieces = prepare(source, output, encoder, mapping)
        expected = sum(piece.rows for piece in pieces)
        rows = refused = 0
        with progress("rows", expected) as bar:

            def done(outcome: Outcome) -> None:
                nonlocal rows, refused
                rows += outcome.rows
                refused += outcome.refused
                bar.update(bar.task_ids[0], completed=rows)

            if engine is Runner.RAY:
                run_on_ray(encoder, job, pieces, done, ray_address)
            else:
                run_locally(encoder, job, pieces, done)
        if rows != expected:
            fail(f"{rows:,} rows came out for {expected:,}: run the command again, it goes on where it stopped")
        remove_leftovers(pieces)
        out.print(
            f"{rows:,} rows in {len(pieces):,} files under {output}; {refused:,} without a vector",
            highlight=False,
            soft_wrap=True,
        )
