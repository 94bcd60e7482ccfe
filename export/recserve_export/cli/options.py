"""Options that several commands have, as types of their parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from recserve_client.cli.console import fail

DEFAULT_RECALL: Final = 0.98


def _recall(value: float) -> float:
    if not 0 < value <= 1:
        fail(f"--recall must be above 0 and at most 1, got {value:g}", code=2)
    return value


Home = Annotated[Path, typer.Option("--home", help="Folder that holds everything recserve makes.")]
CatalogueUrl = Annotated[
    str, typer.Option("--store", help="URL of the catalogue store.", show_default="the file in the home")
]
InteractionsUrl = Annotated[
    str, typer.Option("--store", help="URL of the interaction store.", show_default="the file in the home")
]
Html = Annotated[Path | None, typer.Option(help="Write a page into this HTML file, which needs nothing else.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MappingFile = Annotated[Path | None, typer.Option("--mapping", help="TOML file with the whole mapping.")]
Refusals = Annotated[Path | None, typer.Option("--refusals", help="Write the refused rows to this JSON Lines file.")]
IdField = Annotated[str, typer.Option("--id-field", help="Column of the item id.")]
TextFields = Annotated[list[str] | None, typer.Option("--text", help="Text field, NAME or NAME=WEIGHT; repeatable.")]
ColumnNames = Annotated[list[str] | None, typer.Option("--map", help="NAME=COLUMN where the column has another name.")]
Precision = Annotated[
    Literal["auto", "fp32", "int8", "int8-fast", "fp16", "bf16"],
    typer.Option("--precision", help="Encoder to use; auto: the one that is served."),
]
Engine = Annotated[
    Literal["auto", "hnsw", "scan", "exact", "milvus"],
    typer.Option("--engine", help="What searches; auto: the cheapest of hnsw, scan and exact that reaches the recall."),
]
Thorough = Annotated[
    bool, typer.Option("--thorough", help="Measure every engine over all items, not over a sample of them.")
]
Recall = Annotated[
    float, typer.Option("--recall", callback=_recall, help="Recall@10 to reach for user vectors, against exact search.")
]
Threads = Annotated[int, typer.Option("--threads", min=0, help="Threads of the build; 0: the usable cores.")]
Rules = Annotated[
    Path | None, typer.Option("--rules", help="TOML or JSON file of the rules.", show_default="the built-in ones")
]
Force = Annotated[bool, typer.Option("--force", help="Do it even when what is there is up to date.")]
MilvusUri = Annotated[
    str, typer.Option("--milvus-uri", help="Milvus, for an index there: http://host:port, /name for a database.")
]
MilvusToken = Annotated[
    str, typer.Option("--milvus-token-file", help="File with user:password or an API key of Milvus.")
]
