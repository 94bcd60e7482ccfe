"""`recserve spaces list|activate|rollback|gc`: the versions of trained spaces, and which of them are served."""

from __future__ import annotations

from typing import Annotated

import typer

from recserve_client.cli.console import fail, note, out
from recserve_client.cli.tables import table
from recserve_export.cli import options
from recserve_export.cli.common import explained, say, stage_bar
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Manage the versions of trained spaces and matrices.", no_args_is_help=True)
_Name = Annotated[str, typer.Argument(help="Name of the space, such as als.")]


@app.command("list")
def list_spaces(
    home: options.Home = DEFAULT_HOME,
    verify: Annotated[bool, typer.Option(help="Check every file against its checksum.")] = False,
) -> None:
    """List the versions, by space and the newest first; `*` marks what is current. Exit code 1 where one is damaged."""
    with explained(OSError):
        from recserve_server_ext.index.trained_versions import kept_versions

        found = kept_versions(Workspace(home).spaces, verify=verify)
        if not found:
            fail(f"nothing is trained in {Workspace(home).spaces}; train with: recserve train all")
        rows = []
        for one in found:
            cells, state = ["", "", ""], "damaged" if one.fault else "whole" if verify else ""
            if one.manifest is not None:
                log = one.manifest.made_from.get("log", {})
                cells = [f"{one.manifest.items:,}", str(one.manifest.dim or ""), str(log.get("number", ""))]
            rows.append(("*" if one.is_current else "", one.space, one.folder.name, *cells, state))
        columns = ("", "space", "version", "items", "dim", "log up to", "state")
        out.print(table(columns, rows, right=("items", "dim", "log up to")))
        faults = [one.fault for one in found if one.fault]
        for fault in faults:
            note(fault)
        if faults:
            raise typer.Exit(1)


@app.command()
def activate(
    name: _Name,
    version: Annotated[str, typer.Argument(help="Name of the version, see `recserve spaces list`.")],
    home: options.Home = DEFAULT_HOME,
    store: options.CatalogueUrl = "",
) -> None:
    """Serve a version of a space; running servers change to it at once."""
    with explained(OSError):
        from recserve_export.index.space_change import activate_space

        _say(activate_space(Workspace(home), name, version, store=store, stage=stage_bar))


@app.command()
def rollback(name: _Name, home: options.Home = DEFAULT_HOME, store: options.CatalogueUrl = "") -> None:
    """Serve the version of a space that was served before."""
    with explained(OSError):
        from recserve_export.index.space_change import roll_back_space

        _say(roll_back_space(Workspace(home), name, store=store, stage=stage_bar))


@app.command()
def gc(home: options.Home = DEFAULT_HOME) -> None:
    """Remove all versions but the current ones, and what killed trainings left."""
    with explained(OSError):
        from recserve_server_ext.index.trained_versions import collect_versions

        for name in collect_versions(Workspace(home).spaces):
            note(f"removed {name}")


def _say(snapshot: str) -> None:
    say(f"snapshot {snapshot} is published" if snapshot else "it is current; serve it with: recserve index build")
