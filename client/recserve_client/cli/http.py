"""`recserve http`: serves JSON over HTTP in front of a running server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recserve_client.cli.console import err, fail, note, tell_ready

app = typer.Typer(help="Serve JSON over HTTP in front of a running server.")


@app.callback(invoke_without_command=True)
def http(
    address: Annotated[str, typer.Option(help="host:port of the server's gRPC.")] = "127.0.0.1:8001",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8080,
    cors: Annotated[list[str] | None, typer.Option("--cors", help="Origin whose pages may call; repeatable.")] = None,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds for a request to the server.")] = 5.0,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback, in plain text.")] = False,
    ready_file: Annotated[Path | None, typer.Option(help="Write the address there when ready.")] = None,
) -> None:
    """Serve JSON over HTTP in front of a running server, until SIGTERM or Ctrl-C."""
    from recserve_client.contract.addresses import is_this_machine
    from recserve_client.http.app import AppOptions
    from recserve_client.http.listening import Certificate, listen
    from recserve_client.http.serve import serve
    from recserve_client.options import ClientOptions
    from recserve_client.tls import Tls

    try:
        tls = Tls.from_environment()
    except ValueError as error:
        fail(f"TLS, as the environment sets it, does not work: {error}", code=2)
    try:
        certificate = Certificate.of(tls_cert, tls_key)
    except (OSError, ValueError) as error:
        fail(str(error), code=2)
    try:
        bound = listen(host, port)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}")
    number = bound.getsockname()[1]
    where = f"[{host}]:{number}" if ":" in host else f"{host}:{number}"
    is_local = is_this_machine(where) and not _is_everywhere(bound.getsockname()[0])
    if not (is_local or certificate or insecure):
        fail(
            f"{where} is not loopback, and HTTP is plain text: give --tls-cert and --tls-key, put a gateway in front "
            "(recserve deploy gateway), or accept that with --insecure"
        )
    if not (is_local or certificate):
        err.print(f"[bold yellow]warning:[/] {where} is open to others, without encryption")

    def ready() -> None:
        url = f"{'http' if certificate is None else 'https'}://{where}"
        note(f"JSON over HTTP at {url}, of the server at {address}; what there is: {url}/v1/openapi.json")
        tell_ready(ready_file, http=where)

    options = AppOptions(cors=tuple(cors or ()), local=is_local)
    serve(bound, address, options, ClientOptions(deadline_s=deadline), tls, ready, certificate)


def _is_everywhere(host: str) -> bool:
    return host in ("0.0.0.0", "::")
