"""`recserve recommend`: asks a running server for recommendations."""

from __future__ import annotations

import sys
from collections.abc import Collection
from functools import partial
from typing import TYPE_CHECKING, Annotated, NoReturn

import msgspec
import typer

from recserve_client.cli.connect import Address, connect
from recserve_client.cli.console import err, fail, out
from recserve_client.contract.addresses import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from recserve_client.contract import Behaviour, Slate
    from recserve_client.contract.filters import Filter
    from recserve_client.errors import RecserveError

app = typer.Typer(help="Ask a running server for recommendations.")

#: Exit codes: a refused request, and a server that cannot be reached.
_REFUSED, _UNREACHABLE = 1, 3
_WEIGHTED = "NAME or NAME=WEIGHT"


@app.callback(invoke_without_command=True)
def recommend(
    user: Annotated[
        str | None, typer.Option(help="User id, to recommend from the user's log; items and texts are the session.")
    ] = None,
    item: Annotated[list[str] | None, typer.Option(help=f"Liked item id, {_WEIGHTED}; repeatable.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="Liked text; repeatable.")] = None,
    not_item: Annotated[list[str] | None, typer.Option(help=f"Disliked item id, {_WEIGHTED}; repeatable.")] = None,
    not_text: Annotated[list[str] | None, typer.Option(help="Disliked text; repeatable.")] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Number of items.")] = 10,
    strategy: Annotated[str, typer.Option(help="Name of the strategy; the server's default if none.")] = "",
    option: Annotated[
        list[str] | None, typer.Option(help="Option of the strategy, NAME=VALUE; VALUE is JSON or a word; repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Item id to leave out; repeatable.")] = None,
    field: Annotated[list[str] | None, typer.Option(help="Field to show; repeatable (title if none).")] = None,
    where: Annotated[
        str | None, typer.Option(help="Only items that match: 'year >= 1990 and \"Drama\" in genre'.")
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print how many items match.")] = False,
    group: Annotated[
        list[str] | None, typer.Option(help="At most N items of a value, ATTRIBUTE=N; repeatable.")
    ] = None,
    diversify: Annotated[float, typer.Option(help="0 ranks by score, 1 only by difference.")] = 0.0,
    min_score: Annotated[float | None, typer.Option(help="Leave out items with a lower score.")] = None,
    boost_recency: Annotated[
        list[str] | None,
        typer.Option(help="Favour new items, ATTRIBUTE:HALF_LIFE:WEIGHT; repeatable."),
    ] = None,
    now: Annotated[float | None, typer.Option(help="Current time in the attribute's unit; this year if none.")] = None,
    boost_popularity: Annotated[
        list[str] | None, typer.Option(help="Favour large counts, ATTRIBUTE:WEIGHT; repeatable.")
    ] = None,
    pin: Annotated[list[str] | None, typer.Option(help="Give an item a fixed place, ID=PLACE; repeatable.")] = None,
    address: Address = DEFAULT_ADDRESS,
    deadline_s: Annotated[float, typer.Option(help="Seconds to wait.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the slate as JSON.")] = False,
) -> None:
    """Ask a running server for recommendations."""
    from recserve_client.cli.slate_words import slate_options, strategy_options
    from recserve_client.contract import Behaviour
    from recserve_client.errors import RecserveError
    from recserve_client.results import behaviours_of

    liked, disliked = item or [], not_item or []

    def history_of(known: Collection[str]) -> list[Behaviour]:
        return [
            *(_item(value, 1, known) for value in liked),
            *(Behaviour(text=value) for value in text or []),
            *(_item(value, -1, known) for value in disliked),
            *(Behaviour(text=value, weight=-1.0) for value in not_text or []),
        ]

    if not history_of(()) and user is None:
        fail("nothing to recommend from: give at least one --item or --text, or a --user (see --help)", code=2)
    try:
        options = strategy_options(option or [])
        slate_rules = slate_options(
            groups=group or [],
            recency=boost_recency or [],
            now=now,
            popularity=boost_popularity or [],
            pins=pin or [],
            diversify=diversify,
            min_score=min_score,
        )
    except ValueError as error:
        fail(str(error), code=2)
    try:
        with connect(address) as client:
            # An id may hold an equals sign, so the whole value is tried as an id first.
            doubtful = [value for value in (*liked, *disliked) if "=" in value]
            found = client.items.get(doubtful, deadline_s=deadline_s).items if doubtful else []
            known = {one.id for one in found}
            history = history_of(known)
            ask = partial(client.recommend, history)
            if user is not None:
                ask = partial(client.recommend_for, user, session=history)
            slate = ask(
                k=k,
                strategy=strategy,
                options=options,
                exclude=exclude or [],
                fields=field or ["title"],
                where=_where(where),
                slate=slate_rules,
                count=count,
                deadline_s=deadline_s,
            )
    except RecserveError as error:
        fail_call(error, address)
    if as_json:
        sys.stdout.write(msgspec.json.encode(slate).decode() + "\n")
    else:
        _show(slate, behaviours_of(slate) if user is not None else history)


def _show(slate: Slate, history: list[Behaviour]) -> None:
    from recserve_client.cli.slate_table import slate_table

    out.print(slate_table(slate, history))
    if slate.count is not msgspec.UNSET:
        out.print(f"{slate.count:,} items match", highlight=False)
    timings = slate.timings
    err.print(
        f"recommendation {slate.recommendation_id}, strategy {slate.strategy}, revision {slate.revision}, "
        f"encoder {slate.encoder}; microseconds: "
        f"resolve {timings.resolve_us}, encode {timings.encode_us}, search ({timings.engine}) {timings.search_us}",
        highlight=False,
        soft_wrap=True,
        style="dim",
    )


#: Statuses of a server that does not answer.
_NO_ANSWER = ("UNAVAILABLE", "DEADLINE_EXCEEDED")


def fail_call(error: RecserveError, address: str) -> NoReturn:
    """Exit with an error line for a failed call."""
    message = _one_line(error.message)
    if error.status in _NO_ANSWER and error.kind is None:
        message = f"no answer from {address}: {message}; is `recserve serve` running there?"
    fail(message, code=_UNREACHABLE if error.status in _NO_ANSWER else _REFUSED)


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _where(words: str | None) -> Filter | None:
    from recserve_client.contract import RequestError
    from recserve_client.where import parse_where

    try:
        return None if words is None else parse_where(words)
    except RequestError as error:
        fail(f"--where cannot be read:\n{error.text}", code=2)


def _item(value: str, sign: int, known: Collection[str]) -> Behaviour:
    """Parse `NAME` or `NAME=WEIGHT`; a known id is never split."""
    from recserve_client.contract import Behaviour

    name, separator, weight = value.rpartition("=")
    if not separator or value in known:
        return Behaviour(item=value, weight=float(sign))
    try:
        number = float(weight)
    except ValueError:
        return Behaviour(item=value, weight=float(sign))  # an id with an equals sign
    if sign < 0 and number < 0:
        fail(f"--not-item {value}: it pushes away already; write --not-item {name}={-number:g}", code=2)
    return Behaviour(item=name, weight=sign * number)
