"""How the commands reach a server: an address, TLS and an API key, by option or by environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from recserve_client.cli.console import fail

if TYPE_CHECKING:
    from recserve_client.client import Client
    from recserve_client.options import ClientOptions

Address = Annotated[str, typer.Option("--address", envvar="RECSERVE_ADDRESS", help="host:port of the server.")]


def connect(address: str, options: ClientOptions | None = None) -> Client:
    """A client with TLS and a key as RECSERVE_TLS_CA, _CERT, _KEY, _SERVER_NAME and RECSERVE_KEY say.

    Ends the command where they are wrong.
    """
    from recserve_client.api_key import key_from_environment
    from recserve_client.client import Client
    from recserve_client.tls import Tls

    try:
        return Client(address, options, tls=Tls.from_environment(), key=key_from_environment())
    except (OSError, ValueError) as error:
        fail(f"TLS or the key, as the environment sets them, does not work: {error}", code=2)
