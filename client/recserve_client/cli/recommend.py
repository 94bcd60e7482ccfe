"""`recserve recommend`: ask a running server, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from recserve_client.cli.console import err, fail, out

if TYPE_CHECKING:
    from recserve_client.contract import Behaviour
    from recserve_client.errors import RecserveError

app = typer.Typer(help="Ask a running server for recommendations.")

#: Exit codes: a refused request, and a server that cannot be reached.
_REFUSED, _UNREACHABLE = 1, 3
_WEIGHTED = "NAME or NAME=WEIGHT"


@app.callback(invoke_without_command=True)
def recommend(
    item: Annotated[list[str] | None, typer.Option(help=f"Liked item id, {_WEIGHTED}; repeatable.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Liked text; repeatable.")] = None,
    not_item: Annotated[list[str] | None, typer.Option(help=f"Disliked item id, {_WEIGHTED}; repeatable.")] = None,
    not_text: Annotated[list[str] | None, typer.Option(help="Disliked text; repeatable.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Number of items.")] = 10,
    exclude: Annotated[list[str] | None, typer.Option(help="Item id to leave out; repeatable.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="Field to show; repeatable (title if none).")] = None,
    address: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:8001",
    deadline_s: Annotated[float, typer.Option(help="Seconds to wait.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the slate as JSON.")] = False,
) -> None:
    """Ask a running server for recommendations."""
    from recserve_client.cli.slate_table import slate_table
    from recserve_client.client import Client
    from recserve_client.contract import Behaviour
    from recserve_client.errors import RecserveError

    history = [
        *(_item(value, 1) for value in item or []),
        *(Behaviour(text=value) for value in text or []),
        *(_item(value, -1) for value in not_item or []),
        *(Behaviour(text=value, weight=-1.0) for value in not_text or []),
    ]
    if not history:
        fail("nothing to recommend from: give at least one --item or --text (see --help)", code=2)
    try:
        with Client(address) as client:
            slate = client.recommend(
                history, k=k, exclude=exclude or [], fields=field or ["title"], deadline_s=deadline_s
            )
    except RecserveError as error:
        fail_call(error, address)
    if as_json:
        sys.stdout.write(msgspec.json.encode(slate).decode() + "\n")
        return
    out.print(slate_table(slate, history))
    timings = slate.timings
    err.print(
        f"recommendation {slate.recommendation_id}, revision {slate.revision}, encoder {slate.encoder}; microseconds: "
        f"resolve {timings.resolve_us}, encode {timings.encode_us}, search ({timings.engine}) {timings.search_us}",
        highlight=False,
        soft_wrap=True,
        style="dim",
    )


_WAITED = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def fail_call(error: RecserveError, address: str) -> NoReturn:
    """End the command with one line for a call that failed."""
    message = _one_line(error.message)
    if error.status in _WAITED and error.kind is None:
        message = f"no answer from {address}: {message}; is `recserve serve` running there?"
    fail(message, code=_UNREACHABLE if error.status in _WAITED else _REFUSED)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _item(value: str, sign: int) -> Behaviour:
    """`NAME` or `NAME=WEIGHT`."""
    from recserve_client.contract import Behaviour

    name, separator, weight = value.rpartition("=")
    if not separator:
        return Behaviour(item=value, weight=float(sign))
    try:
        number = float(weight)
    except ValueError:
        fail(f"the weight {weight!r} of {name!r} is not a number; write --item ID or --item ID=2.5", code=2)
    if sign < 0 and number < 0:
        fail(f"--not-item {value}: it pushes away already; write --not-item {name}={-number:g}", code=2)
    return Behaviour(item=name, weight=sign * number)
