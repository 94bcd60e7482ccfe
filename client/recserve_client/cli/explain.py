"""`recserve explain`: prints the walk of one request through the stages, and why items are or are not in its slate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from recserve_client.cli.connect import Address, connect
from recserve_client.cli.console import fail, out
from recserve_client.cli.recommend import fail_call
from recserve_client.contract.addresses import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from recserve_client.contract import RecommendRequest, Slate, SlateWalk

app = typer.Typer(help="Explain one request: its stages, its candidates, and why an item is or is not in the slate.")

_USAGE = 2
_STDIN = "-"


@app.callback(invoke_without_command=True)
def explain(
    request: Annotated[
        str, typer.Argument(help="JSON file of a request to `recommend`; - reads standard input.", show_default=False)
    ] = "",
    recommendation: Annotated[
        str,
        typer.Option(help="Id of a recommendation that the server still holds the request of, in place of REQUEST."),
    ] = "",
    why_not: Annotated[
        list[str] | None, typer.Option(help="Item id to say of why it is or is not in the slate; repeatable.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    deadline_s: Annotated[float, typer.Option(help="Seconds to wait.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the slate with its walk as JSON.")] = False,
) -> None:
    """Explain one request: its stages, its candidates, and why an item is or is not in the slate."""
    from recserve_client.contract import Slate
    from recserve_client.errors import RecserveError

    if bool(request) == bool(recommendation):
        fail("give either a REQUEST or --recommendation", code=_USAGE)
    asked = _of_recommendation(recommendation, why_not or []) if recommendation else _read(request, why_not or [])
    try:
        with connect(address) as client:
            (answer,) = client.recommend_many([asked], deadline_s=deadline_s)
    except RecserveError as error:
        fail_call(error, address)
    if not isinstance(answer, Slate):
        fail_call(answer, address)
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(answer)).decode() + "\n")
    else:
        _show(answer, asked)


def _of_recommendation(recommendation: str, why_not: list[str]) -> RecommendRequest:
    """The request that asks for the walk of an earlier recommendation."""
    from recserve_client.contract import RecommendRequest, Walk

    return RecommendRequest(walk=Walk(list(dict.fromkeys(why_not)), recommendation))


def _read(path: str, why_not: list[str]) -> RecommendRequest:
    """The request of a file, with the items to explain."""
    from recserve_client.contract import RecommendRequest, Walk

    try:
        raw = sys.stdin.buffer.read() if path == _STDIN else Path(path).read_bytes()
        request = msgspec.json.decode(raw, type=RecommendRequest)
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror or error}", code=_USAGE)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        fail(f"{path} is no request to `recommend`: {error}", code=_USAGE)
    named = [] if request.walk is None else request.walk.items
    return msgspec.structs.replace(request, walk=Walk(list(dict.fromkeys([*named, *why_not]))))


def _show(slate: Slate, request: RecommendRequest) -> None:
    from recserve_client.cli.slate_table import slate_table
    from recserve_client.results import behaviours_of

    walk = slate.walk
    if walk is msgspec.UNSET:
        fail("the answer has no walk; is this a recserve server of this version?")
    answered = walk.asked if walk.asked == slate.strategy else f"{walk.asked} -> {slate.strategy}"
    out.print(f"strategy {answered}, revision {slate.revision}, engine {slate.timings.engine}", highlight=False)
    if request.walk is not None and request.walk.recommendation_id:
        out.print("worked out now: the catalogue and the log may have changed since", highlight=False)
    if walk.cold is not msgspec.UNSET:
        out.print(f"the profile is not usable: {escape(walk.cold)}", highlight=False)
    trained = ", ".join(f"{name} {version}" for name, version in walk.served.trained.items())
    out.print(f"snapshot {walk.served.snapshot}" + (f", {trained}" if trained else ""), highlight=False)
    for table in (_stages(walk), _sources(walk)):
        out.print(table)
    out.print(slate_table(slate, request.history if request.user_id is None else behaviours_of(slate)))
    for item in walk.items:
        rank = "" if item.rank is msgspec.UNSET else f", rank {item.rank}"
        score = "" if item.score is msgspec.UNSET else f", score {item.score:.4g}"
        out.print(f"\n[bold]{escape(item.id)}[/]: {item.verdict}{rank}{score}", highlight=False)
        out.print(f"  {escape(item.why)}", highlight=False)
        if item.sources:
            out.print(f"  proposed by {escape(', '.join(item.sources))}", highlight=False)


def _stages(walk: SlateWalk) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage")
    for name in ("ms", "items left"):
        table.add_column(name, justify="right")
    for stage in walk.stages:
        left = "" if stage.items is msgspec.UNSET else f"{stage.items:,}"
        table.add_row(stage.name, f"{stage.took_us / 1000:.2f}", left)
    return table


def _sources(walk: SlateWalk) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidates from")
    for name in ("candidates", "in the slate"):
        table.add_column(name, justify="right")
    for source in walk.sources:
        kind = "" if source.kind in ("strategy", source.name) else f"{source.kind} "
        of_part = "  " if source.kind == "part" else ""
        interest = "" if source.interest is msgspec.UNSET else f", interest {source.interest}"
        name = f"{of_part}{kind}{source.name}{interest}"
        table.add_row(escape(name), f"{source.candidates:,}", f"{source.in_slate:,}")
    return table
