"""`recserve console`: opens a page that shows a running server and tries it out."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from recserve_client.cli.connect import Address
from recserve_client.cli.console import TERMINATED, fail, note, tell_ready
from recserve_client.contract.addresses import DEFAULT_ADDRESS

_HELP: Final = "Open a page in the browser that shows a running server and tries it out."
app = typer.Typer(help=_HELP)
_METRICS: Final = "127.0.0.1:8002"
_START_S: Final = 180.0
_STOP_S: Final = 60.0


@app.callback(invoke_without_command=True, help=_HELP)
def console(
    home: Annotated[
        Path, typer.Option(help="Home of the server, for what is read from its files; without one, less is shown.")
    ] = Path(".recserve"),
    serve: Annotated[
        bool, typer.Option("--serve", help="Also run a server over the home, and stop it at the end.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    metrics: Annotated[str, typer.Option(help="host:port of the server's metrics.")] = _METRICS,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback people log in with an API key of the home.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for a free one.")] = 8090,
    tls_cert: Annotated[Path | None, typer.Option(help="PEM file of the certificate, for HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback in plain text.")] = False,
    ready_file: Annotated[Path | None, typer.Option(help="Write the address there when ready.")] = None,
) -> None:
    # Imports NiceGUI, so that a missing extra is named before a server is started.
    from recserve_client.http.listening import Certificate, listen
    from recserve_console import serving
    from recserve_console.access import check_public
    from recserve_server_ext.common.errors import ServerError

    try:
        certificate = Certificate.of(tls_cert, tls_key)
    except (OSError, ValueError) as error:
        fail(str(error), code=2)
    try:
        bound = listen(host, port)
    except OSError as error:
        fail(f"cannot listen on {host}:{port}: {error.strerror or error}")
    with ExitStack() as stack:
        stack.callback(bound.close)
        beside = home if home.is_dir() else None
        try:
            sessions = serving.sessions_of(bound, beside)
            if not sessions.is_local:
                has_keys = sessions.has_keys
                check_public(host, has_tls=certificate is not None, has_keys=has_keys, insecure=insecure)
        except (ServerError, ValueError) as error:
            fail(str(error), code=2)
        if serve:
            # Ends as by Ctrl-C, so that the server is stopped, too.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
            address, metrics = stack.enter_context(_served(home))
        try:
            state = serving.console_of(address, metrics, beside, sessions)
        except (OSError, ValueError) as error:
            fail(f"TLS as the environment sets it does not work: {error}", code=2)
        where = serving.name_of(bound)

        def ready() -> None:
            note(f"the console of {address} is at {'http' if certificate is None else 'https'}://{where}")
            tell_ready(ready_file, console=where)

        serving.serve(bound, state, ready, certificate)


@contextmanager
def _served(home: Path) -> Iterator[tuple[str, str]]:
    """Run `recserve serve` on free ports; yields the addresses of its gRPC and its metrics, and always stops it."""
    words = ["serve", "--home", str(home), "--grpc-port", "0", "--metrics-port", "0"]
    with tempfile.TemporaryDirectory() as aside:
        ready = Path(aside) / "ready.json"
        program = [sys.executable, "-m", "recserve_client.cli.main", *words, "--ready-file", str(ready)]
        process = subprocess.Popen(program)
        try:
            deadline = time.monotonic() + _START_S
            while not ready.exists():
                if process.poll() is not None:
                    fail(f"recserve serve ended with exit code {process.returncode}")
                if time.monotonic() > deadline:
                    fail(f"the server was not ready after {_START_S:.0f} s")
                time.sleep(0.05)
            found = json.loads(ready.read_text())
            yield found["grpc"], found["metrics"]
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            finally:
                process.kill()
                process.wait()
