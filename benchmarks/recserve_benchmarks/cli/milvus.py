"""`recserve bench milvus`: a search in Milvus against the engines in this process, on the same vectors in one run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recserve_benchmarks.cli.output import check_folders, print_results, steps
from recserve_client.cli.console import fail
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_benchmarks.retrieve.candidates import Candidate, Done
    from recserve_server_ext.common.arrays import Vectors
    from recserve_server_ext.index.engines.engine import Engine

_REAL = 65_000
#: Of both graphs, and the widths that each is searched with.
_M, _EF_CONSTRUCTION = 32, 200
_EF = (64, 128, 256, 512)


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
        from recserve_benchmarks.harness.report import machine
        from recserve_benchmarks.retrieve.report import curves_table
        from recserve_server_ext.common.errors import ServerError
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
    from recserve_benchmarks.harness.corpus import encoded_texts
    from recserve_benchmarks.retrieve.bench import RECALL
    from recserve_benchmarks.retrieve.corpus import grown
    from recserve_benchmarks.retrieve.curves import Curves
    from recserve_server_ext.config.milvus import MilvusSettings
    from recserve_server_ext.encoder.selection import choose_encoder
    from recserve_server_ext.index.engines.milvus.collection import Loadable
    from recserve_server_ext.index.engines.milvus.engine import MilvusEngine

    with steps() as done:
        texts = encoded_texts(workspace, choose_encoder(workspace, "auto"), items, done)
        vectors = grown(texts.vectors, items, seed, done)
        loadable = Loadable.of_items(vectors, [f"t{row}" for row in range(items)], None, "bench")
        start = time.perf_counter()
        done("load into Milvus", 0, items)
        loaded = MilvusEngine.build(
            loadable, MilvusSettings(uri=uri), m=_M, ef_construction=_EF_CONSTRUCTION, ef=_EF[0]
        )
        done("load into Milvus", items, items)
        load_s = time.perf_counter() - start
        try:
            curves = Curves(_candidates(vectors, loaded, users, seed, done), RECALL)
            curves.measure(vectors, rounds, seed, done)
        finally:
            loaded.discard()
    return {"engines": curves.engines(), "load_s": load_s}


def _candidates(vectors: Vectors, loaded: Engine, users: int, seed: int, done: Done) -> list[Candidate]:
    """Two graphs with the same parameters and widths, what the index build chooses for `scan`, and `exact`."""
    from recserve_benchmarks.retrieve.bench import RECALL
    from recserve_benchmarks.retrieve.candidates import Candidate, recall_by_kind
    from recserve_export.index.engine_choice import Settings, build_engine
    from recserve_export.index.recall import sample_users
    from recserve_server_ext.index.engines.exact import ExactEngine
    from recserve_server_ext.index.engines.hnsw import HnswEngine

    done("build engines", 0, 2)
    graph = HnswEngine.build(vectors, m=_M, ef_construction=_EF_CONSTRUCTION, ef=_EF[0], seed=seed)
    done("build engines", 1, 2)
    scan, _ = build_engine(vectors, Settings(engine="scan", recall=RECALL, users=users, seed=seed))
    done("build engines", 2, 2)
    wanted = [(engine, {**engine.parameters, "ef": ef}) for engine in (graph, loaded) for ef in _EF]
    wanted += [(scan, scan.parameters), (ExactEngine(vectors), {})]
    sample = sample_users(vectors, count=users, seed=seed + 1)
    found = [
        Candidate(engine, parameters, chosen_for=("both",) if engine is scan else ()) for engine, parameters in wanted
    ]
    return [replace(candidate, recall=recall_by_kind(candidate, sample)) for candidate in found]
