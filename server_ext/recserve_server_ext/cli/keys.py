"""`recserve keys`: rotates the keys of users' pseudonyms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import fail, note, progress
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Keys of users' pseudonyms.", no_args_is_help=True)


@app.callback()
def _keys() -> None:
    """Keys of users' pseudonyms."""


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

    from recserve_server_ext.common.errors import ServerError
    from recserve_server_ext.interactions.key_rotation import rotate
    from recserve_server_ext.interactions.ledger import Ledger
    from recserve_server_ext.interactions.store import InteractionStore

    place = Workspace(home)
    try:
        with (
            InteractionStore(place.interactions if store is None else store) as opened,
            progress("rotating the key", None) as bar,
        ):
            ledger = Ledger(place.erasures if erasures is None else erasures)
            done = rotate(opened, place.pseudonym_key, lambda rows: bar.advance(TaskID(0), rows), ledger)
    except ServerError as error:
        fail(str(error))
    if done.resumed:
        note("the key was rotated already; what the old pseudonyms had left in the files is cleared now")
    else:
        note(f"{done.users:,} users and {done.tombstones:,} tombstones are under a new key")
    note(f"all {done.keys} keys are needed from now on: keep a copy of them, apart from backups of the store")
