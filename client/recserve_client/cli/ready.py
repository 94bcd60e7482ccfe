"""`recserve ready`: whether a server recommends, by a real inference; made for probes of containers."""

from __future__ import annotations

from typing import Annotated

import typer

from recserve_client.cli.connect import Address, connect
from recserve_client.cli.console import fail
from recserve_client.contract.addresses import DEFAULT_ADDRESS

app = typer.Typer(help="Ask a server for one recommendation.")


@app.callback(invoke_without_command=True)
def ready(
    address: Address = DEFAULT_ADDRESS,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for the answer.")] = 5.0,
) -> None:
    """Ask the server for one recommendation, from text to slate; exit code 1 when none comes."""
    from recserve_client.options import ClientOptions

    with connect(address, ClientOptions(deadline_s=deadline, tries=1)) as client:
        if not client.ready():
            fail(f"the server at {address} does not recommend")
