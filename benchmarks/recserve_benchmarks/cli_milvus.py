"""`recserve bench milvus`: a search in Milvus against the engines in this process, on the same vectors in one run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from recserve_benchmarks.cli_output import check_folders, print_results, steps
from recserve_client.cli.console import fail
from recserve_server_ext.workspace import DEFAULT_HOME, Workspace

_REAL = 65_000


def milvus(
    milvus_uri: Annotated[str, typer.Option("--milvus-uri", help="Where Milvus is: http://host:port.")],
    home: Annotated[Path, typer.Option(help="Folder with encoder and catalogue.")] = DEFAULT_HOME,
    items: Annotated[int, typer.Option(help="Texts of the films to search.", min=1000, max=_REAL)] = _REAL,
    rounds: Annotated[int, typer.Option(help="Rounds; medians are over them.", min=1)] = 3,
    users: Annotated[int, typer.Option(help="Users of each kind to measure recall with.", min=10)] = 500,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all figures to this file.")] = None,
) -> None:
    """Measure Milvus against the engines in this process on user vectors; its collection is removed at the end."""
    check_folders(json_file, None)
    try:
        from recserve_benchmarks.report import machine
        from recserve_benchmarks.retrieve_report import curves_table
        from recserve_server_ext.errors import ServerError
    except ModuleNotFoundError as error:
        fail(f"recserve bench needs the module {error.name!r}: pip install 'recserve[serve,export,bench]'")
    try:
        results = _measure(Workspace(home), milvus_uri, items, rounds, users, seed)
    except ServerError as error:
        fail(str(error))
    results["setup"] = {**machine(), "items": items, "users": users, "rounds": rounds, "seed": seed}
    setup = results["setup"]
    title = f"{setup['cpu']}, {setup['cores']} cores; {items:,} items; Milvus on the machine of {milvus_uri}"
    print_results((title, curves_table(results)), results, json_file)


def _measure(workspace: Workspace, uri: str, items: int, rounds: int, users: int, seed: int) -> dict[str, Any]:
    from recserve_benchmarks import retrieve_curves
    from recserve_benchmarks.corpus import prepare
    from recserve_benchmarks.retrieve_bench import RECALL
    from recserve_benchmarks.retrieve_corpus import items_of
    from recserve_server_ext.encoder_manifest import choose_encoder
    from recserve_server_ext.milvus_engine import MilvusEngine
    from recserve_server_ext.milvus_settings import MilvusSettings

    with steps() as done:
        corpus = prepare(workspace, choose_encoder(workspace, "auto"), items, done)
        vectors = items_of(corpus.snapshot.vectors, items, seed).vectors
        candidates = retrieve_curves.build_candidates(vectors, RECALL, users, seed, done, MilvusSettings(uri=uri))
        try:
            return {"engines": retrieve_curves.measure(candidates, vectors, rounds, seed, done)}
        finally:
            for engine in {candidate.engine for candidate in candidates}:
                if isinstance(engine, MilvusEngine):
                    engine.discard()
