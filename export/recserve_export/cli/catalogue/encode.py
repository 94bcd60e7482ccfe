"""`recserve catalogue encode`: vectors of a catalogue in Parquet files, made here or on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recserve_client.cli.console import fail
from recserve_export.cli import options
from recserve_export.cli.common import explained, say, stage_bar
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace


def encode(
    source: Annotated[Path, typer.Option("--input", help="A Parquet file, or a folder of them.")],
    output: Annotated[Path, typer.Option(help="Folder of the vectors; a job that was stopped goes on in it.")],
    home: options.Home = DEFAULT_HOME,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Who does it.")] = "local",
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster.", show_default="one is started here")] = None,
    precision: options.Precision = "auto",
    id_field: options.IdField = "id",
    text: options.TextFields = None,
    columns: options.ColumnNames = None,
) -> None:
    """Write a row (id, vector, error, made_from) for each input row; what is no item has an error and no vector."""
    with explained(OSError):
        from recserve_export.bulk_encoding.job import Outcome, prepare, remove_leftovers, run_locally
        from recserve_export.bulk_encoding.ray_runner import run_on_ray
        from recserve_export.catalogue.mapping import mapping_from_options
        from recserve_server_ext.encoder.selection import choose_encoder

        if ray_address is not None and engine == "local":
            fail("--ray-address needs --engine ray", code=2)
        encoder = choose_encoder(Workspace(home), precision).resolve()
        mapping = mapping_from_options(id_field=id_field, texts=text or (), columns=columns or ())
        job, pieces = prepare(source, output, encoder, mapping)
        expected = sum(piece.rows for piece in pieces)
        outcomes: list[Outcome] = []
        with stage_bar("rows", expected) as advance:

            def done(outcome: Outcome) -> None:
                outcomes.append(outcome)
                advance(outcome.rows)

            if engine == "ray":
                run_on_ray(encoder, job, pieces, done, ray_address)
            else:
                run_locally(encoder, job, pieces, done)
        rows, refused = sum(one.rows for one in outcomes), sum(one.refused for one in outcomes)
        if rows != expected:
            fail(f"{rows:,} rows came out for {expected:,}: run the command again, it goes on where it stopped")
        remove_leftovers(pieces)
        say(f"{rows:,} rows in {len(pieces):,} files under {output}; {refused:,} without a vector")
