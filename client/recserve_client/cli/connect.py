"""How the commands reach a server: an address and TLS, by option or by environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from recserve_client.cli.console import fail

if TYPE_CHECKING:
    from recserve_client.client import Client
    from recserve_client.options import ClientOptions

Address = Annotated[str, typer.Option("--address", envvar="RECSERVE_ADDRESS", help="host:port of the server.")]


def connect(address: str, options: ClientOptions | None = None) -> Client:
    """A client with TLS as RECSERVE_TLS_CA, _CERT, _KEY and _SERVER_NAME say; ends the command where they are wrong."""
    from recserve_client.client import Client
    from recserve_client.tls import Tls

    try:
        return Client(address, options, tls=Tls.from_environment())
    except (OSError, ValueError) as error:
        fail(f"TLS as the environment sets it does not work: {error}", code=2)
