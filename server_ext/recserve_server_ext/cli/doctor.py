"""`recserve doctor`: checks all that serving needs, and says what to do about each fault."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import explained, out
from recserve_server_ext.common.errors import ServerError
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

app = typer.Typer(help="Check the installation, the encoder, the snapshot and the ports.")


@app.callback(invoke_without_command=True)
def doctor(
    home: Annotated[Path, typer.Option(help="Folder with encoder, catalogue and snapshots.")] = DEFAULT_HOME,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings.")] = None,
    triton: Annotated[Path | None, typer.Option(help="A tritonserver to check instead of the one found.")] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Check the GPU, too, and run the encoder on it.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the installation, the encoder, the snapshot and the ports; exit code 1 when something is wrong."""
    from rich.markup import escape
    from rich.table import Table

    from recserve_server_ext.config.server import ServeSettings, read_settings
    from recserve_server_ext.doctor.checks import examine

    with explained(ServerError, code=2):
        settings = read_settings(config) if config is not None else ServeSettings()
    findings = examine(Workspace(home), settings, triton, gpu=gpu)
    if as_json:
        sys.stdout.write(json.dumps([{**asdict(finding), "ok": finding.ok} for finding in findings]) + "\n")
    else:
        table = Table(box=None, header_style="bold", pad_edge=False, width=min(100, out.width))
        for name in ("", "check", "found", "what to do"):
            table.add_column(name, ratio=None if name in ("", "check") else 1)
        for finding in findings:
            mark = "[green]ok[/]" if finding.ok else "[bold red]!![/]"
            table.add_row(mark, finding.check, escape(finding.found), escape(finding.advice))
        out.print(table)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)
