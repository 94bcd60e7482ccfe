"""`recserve upgrade`: brings a home to this version, or says what that would do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import explained, out
from recserve_client.cli.tables import table
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Bring a home to this version.")


@app.callback(invoke_without_command=True)
def upgrade(
    home: Annotated[Path, typer.Option(help="Folder that holds everything recserve makes.")] = DEFAULT_HOME,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings, with the URLs of the stores.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what would be done, and change nothing.")] = False,
) -> None:
    """Run the migrations that the stores lack, and say what is refused; exit code 1 when something is."""
    from rich.text import Text

    from recserve_server_ext.config.server import ServeSettings, read_settings
    from recserve_server_ext.doctor.upgrade import plan
    from recserve_server_ext.doctor.upgrade import upgrade as bring

    with explained(ServerError):
        settings = ServeSettings() if config is None else read_settings(config)
        parts = plan(Workspace(home), settings)
        if not check and not any(part.is_refused for part in parts):
            bring(Workspace(home), settings)
            parts = plan(Workspace(home), settings)
    refused, sound = Text("!!", "bold red"), Text("ok", "green")
    rows = [(refused if part.is_refused else sound, part.name, part.outcome) for part in parts]
    out.print(table(("", "part", "this version"), rows))
    if any(part.is_refused for part in parts):
        raise typer.Exit(1)
