"""`recserve keys`: API keys of callers, and the keys of users' pseudonyms."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import explained, fail, note, out, progress
from recserve_client.cli.tables import table
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="API keys of callers, and the keys of users' pseudonyms.", no_args_is_help=True)

_Home = Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")]
_File = Annotated[Path | None, typer.Option(help="File of the API keys.", show_default="api-keys.json in HOME")]


@app.callback()
def _keys() -> None:
    """API keys of callers, and the keys of users' pseudonyms."""


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What the key is for, such as: web shop.")],
    scope: Annotated[
        list[str], typer.Option("--scope", help="recommend, items, interactions, users.erase or admin; repeatable.")
    ],
    home: _Home = DEFAULT_HOME,
    file: _File = None,
) -> None:
    """Make an API key, and print it: this once, since only its SHA-256 is kept. Running servers take it at once."""
    from recserve_server_ext.access.key_file import create_key
    from recserve_server_ext.access.scopes import Scope

    try:
        scopes = [Scope(one) for one in scope]
    except ValueError:
        fail(f"a scope is {', '.join(Scope)}; given: {', '.join(scope)}", code=2)
    with explained(ServerError):
        key_id, key = create_key(_file(home, file), name, scopes)
    note(f"key {key_id} of {name!r}, good for: {', '.join(sorted(set(scopes)))}; keep it, it is not shown again")
    sys.stdout.write(key + "\n")


@app.command("list")
def list_keys(
    home: _Home = DEFAULT_HOME,
    file: _File = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the API keys: ids, names and scopes, not the keys."""
    from recserve_server_ext.access.key_file import read_keys

    with explained(ServerError):
        keys = read_keys(_file(home, file))
    if as_json:
        rows = [{"id": key.id, "name": key.name, "scopes": key.scopes, "created_at": key.created_at} for key in keys]
        sys.stdout.write(json.dumps(rows) + "\n")
        return
    made = [time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(key.created_at)) for key in keys]
    cells = [(key.id, key.name, ", ".join(key.scopes), at) for key, at in zip(keys, made, strict=True)]
    out.print(table(("id", "name", "scopes", "created"), cells) if keys else "there are no API keys")


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, as `list` shows it.")],
    home: _Home = DEFAULT_HOME,
    file: _File = None,
) -> None:
    """Revoke an API key. Running servers refuse it from the next request on."""
    from recserve_server_ext.access.key_file import revoke_key

    with explained(ServerError):
        gone = revoke_key(_file(home, file), key_id)
    note(f"key {gone.id} of {gone.name!r} is revoked")


def _file(home: Path, file: Path | None) -> Path:
    return Workspace(home).api_keys if file is None else file


@app.command()
def rotate(
    home: Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")] = DEFAULT_HOME,
    store: Annotated[str | None, typer.Option(help="URL of PostgreSQL in place of the file in HOME.")] = None,
    erasures: Annotated[
        Path | None, typer.Option(help="Ledger of erasures.", show_default="erasures.jsonl in HOME")
    ] = None,
) -> None:
    """Give every user of the store a new pseudonym by a new key, or finish a rotation that was cut short.

    Servers may run meanwhile: they record nothing until it is done, and then go on with the new key.
    """
    from rich.progress import TaskID

    from recserve_server_ext.interactions.key_rotation import rotate
    from recserve_server_ext.interactions.ledger import Ledger
    from recserve_server_ext.interactions.store import InteractionStore

    place = Workspace(home)
    with (
        explained(ServerError),
        InteractionStore(place.interactions if store is None else store) as opened,
        progress("rotating the key", None) as bar,
    ):
        ledger = Ledger(place.erasures if erasures is None else erasures)
        done = rotate(opened, place.pseudonym_key, lambda rows: bar.advance(TaskID(0), rows), ledger)
    if done.resumed:
        note("the key was rotated already; what the old pseudonyms had left in the files is cleared now")
    else:
        note(f"{done.users:,} users and {done.tombstones:,} tombstones are under a new key")
    note(f"all {done.keys} keys are needed from now on: keep a copy of them, apart from backups of the store")
