"""`recserve users`: shows, exports and erases the data that a running server stores of a user."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import typer
from rich import box
from rich.table import Table
from rich.text import Text

from recserve_client.cli.connect import Address, connect
from recserve_client.cli.console import note, out
from recserve_client.cli.recommend import fail_call
from recserve_client.contract.addresses import DEFAULT_ADDRESS

if TYPE_CHECKING:
    from recserve_client.client import Client
    from recserve_client.contract import UserHistory

R = TypeVar("R")
app = typer.Typer(help="Show, export and erase the stored data of a user.", no_args_is_help=True)

_SUBJECT_WIDTH = 40
UserArgument = Annotated[str, typer.Argument(help="User id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def history(
    user: UserArgument,
    address: Address = DEFAULT_ADDRESS,
    rows: Annotated[int, typer.Option(min=1, help="Most rows of the table.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Show the weighted history that USER is recommended from."""
    found = _ask(address, lambda client: client.users.history(user))
    if as_json:
        _print_json(found)
        return
    left_out = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in found.left_out.items())
    note(
        f"rules {found.rules}: {len(found.entries):,} of {found.read:,} interactions kept"
        + (f" ({left_out})" if left_out else "")
    )
    if found.entries:
        out.print(_table(found, rows))
    if len(found.entries) > rows:
        note(f"{len(found.entries) - rows:,} more rows; see them with --rows {len(found.entries)}")


@app.command()
def export(user: UserArgument, address: Address = DEFAULT_ADDRESS) -> None:
    """Print all stored data of USER as JSON."""
    _print_json(_ask(address, lambda client: client.users.export(user)))


@app.command()
def erase(
    user: UserArgument,
    address: Address = DEFAULT_ADDRESS,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete all stored data of USER permanently, and print the receipt as JSON."""
    if not yes:
        typer.confirm(f"Delete all data of this user on the server at {address}?", abort=True, err=True)
    receipt = _ask(address, lambda client: client.users.erase(user))
    note(
        f"{receipt.interactions:,} interactions removed; older ones of this user are refused "
        f"until {_moment(receipt.refused_until)}; keep the receipt"
    )
    _print_json(receipt)


def _ask(address: str, ask: Callable[[Client], R]) -> R:
    from recserve_client.errors import RecserveError

    try:
        with connect(address) as client:
            return ask(client)
    except RecserveError as error:
        fail_call(error, address)


def _table(found: UserHistory, rows: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("item or text", "type", "when (UTC)"):
        table.add_column(name, overflow="fold")
    table.add_column("weight", justify="right")
    for entry in found.entries[:rows]:
        subject = entry.item if entry.item is not None else f'"{entry.text}"'
        shown = Text("".join(char if char.isprintable() else ascii(char)[1:-1] for char in subject))
        shown.truncate(_SUBJECT_WIDTH, overflow="ellipsis")
        table.add_row(shown, entry.type, _moment(entry.timestamp), f"{entry.weight:.4g}")
    return table


def _moment(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_json(message: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(message)).decode() + "\n")
