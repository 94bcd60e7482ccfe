"""`recserve deploy`: writes configurations of what stands around a server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import explained, note
from recserve_server_ext.common.errors import ServerError

app = typer.Typer(help="Write configurations of what stands around a server.", no_args_is_help=True)


@app.callback()
def _deploy() -> None:
    """Write configurations of what stands around a server."""


@app.command()
def gateway(
    out: Annotated[Path, typer.Option(help="Folder of the configuration, and of nginx's own files.")],
    config: Annotated[Path, typer.Option(help="TOML file of the settings of the server.")],
    cert: Annotated[Path, typer.Option(help="Certificate of the gateway, PEM.")],
    key: Annotated[Path, typer.Option(help="Its private key, PEM.")],
    listen: Annotated[str, typer.Option(help="address:port to listen on, or a port of all addresses.")] = "8443",
    client_ca: Annotated[Path | None, typer.Option(help="Authorities whose certificates callers need.")] = None,
    server_ca: Annotated[Path | None, typer.Option(help="Authorities of the certificate of the server.")] = None,
    http: Annotated[str, typer.Option(help="host:port of `recserve http`, to be served too.")] = "",
    rate: Annotated[int, typer.Option(min=1, help="Requests a second of a key.")] = 100,
    burst: Annotated[int, typer.Option(min=0, help="Requests of a key beyond that at once.")] = 200,
    connections: Annotated[int, typer.Option(min=1, help="Requests of an address at a time.")] = 512,
) -> None:
    """Write the configuration of nginx as the gateway before a server that asks for keys."""
    from recserve_server_ext.config.server import read_settings
    from recserve_server_ext.gateway.nginx import Gateway, write_gateway

    with explained(ServerError):
        written = write_gateway(
            Gateway(
                listen=listen,
                cert=str(cert.absolute()),
                key=str(key.absolute()),
                client_ca="" if client_ca is None else str(client_ca.absolute()),
                server_ca="" if server_ca is None else str(server_ca.absolute()),
                http=http,
                rate=rate,
                burst=burst,
                connections=connections,
                state=str((out / "state").absolute()),
            ),
            read_settings(config),
            out,
        )
    note(f"written: {written}")
    note(f"start it with: nginx -c {written.absolute()}")
