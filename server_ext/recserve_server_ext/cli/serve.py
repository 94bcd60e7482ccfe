"""`recserve serve`: runs a supervised tritonserver over a home folder."""

from __future__ import annotations

import gc
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from recserve_client.cli.console import fail, note
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

if TYPE_CHECKING:
    from recserve_server_ext.config.server import ServeSettings

app = typer.Typer(help="Serve the encoder and the index on Triton, watched, until SIGTERM or Ctrl-C.")


def _port(port: int | None) -> int | None:
    if port is not None and not 0 <= port <= 65535:
        raise typer.BadParameter(f"{port} is not a port; give one from 0 to 65535")
    return port


@app.callback(invoke_without_command=True)
def serve(
    home: Annotated[Path, typer.Option(help="Folder with encoder, catalogue and snapshots.")] = DEFAULT_HOME,
    config: Annotated[Path | None, typer.Option(help="TOML file of settings; the options here win.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    grpc_port: Annotated[
        int | None, typer.Option(callback=_port, help="Port of gRPC; 0 for any free one.", show_default="8001")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(callback=_port, help="Port of metrics; 0 for any free one.", show_default="8002")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Listen beyond loopback without TLS, keys, or both."),
    ] = False,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, int8 or int8-fast.", show_default="auto")] = None,
    triton: Annotated[Path | None, typer.Option(help="A tritonserver to run instead of the one found.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log events as JSON lines.")] = False,
    ready_file: Annotated[
        Path | None, typer.Option(help="Written once ready: JSON with the addresses and process ids.")
    ] = None,
) -> None:
    """Serve the encoder and the index on Triton, watched, until SIGTERM or Ctrl-C."""
    gc.disable()  # until all is imported, which leaves no garbage
    from recserve_server_ext.common.errors import ServerError
    from recserve_server_ext.config.server import ServeSettings, read_settings

    options = {"host": host, "grpc_port": grpc_port, "metrics_port": metrics_port, "precision": precision}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        settings = read_settings(config) if config is not None else ServeSettings()
        merged = msgspec.convert(msgspec.to_builtins(settings) | given, ServeSettings)
        _refuse_open(merged, insecure=insecure)
        _run(Workspace(home), merged, triton, ready_file, log_json=log_json)
    except msgspec.ValidationError as error:
        fail(f"a setting is wrong: {error}", code=2)
    except ServerError as error:
        fail(str(error))
    finally:
        gc.enable()


def _refuse_open(settings: ServeSettings, *, insecure: bool) -> None:
    """Refuse to listen beyond loopback without TLS and keys, unless that is asked for by name; raises LaunchError."""
    from recserve_server_ext.common.errors import LaunchError
    from recserve_server_ext.triton.process import exposure

    if not insecure and (found := exposure(settings)):
        raise LaunchError(f"{found}, or accept that with --insecure")


def _run(
    workspace: Workspace, settings: ServeSettings, triton: Path | None, ready_file: Path | None, *, log_json: bool
) -> None:
    import os

    from recserve_server_ext.access.key_file import read_keys
    from recserve_server_ext.common.files import write_file
    from recserve_server_ext.supervisor.event_log import EventLog
    from recserve_server_ext.supervisor.plan import api_keys_of, prepare
    from recserve_server_ext.supervisor.service_manager import ServiceManager
    from recserve_server_ext.supervisor.supervisor import Supervisor
    from recserve_server_ext.triton.binary import find_triton

    if ready_file is not None:
        ready_file.unlink(missing_ok=True)  # what an earlier process left says nothing of this one
    log = EventLog(as_json=log_json)
    manager = ServiceManager.of_process()
    plan = prepare(workspace, settings, find_triton(triton), log)
    if not plan.endpoint.is_local:
        note(
            f"warning: listening on {settings.host}: Triton's front end is not made for open networks, and the one in "
            "the wheel lacks the fixes of 2025; see docs/how-to/run-a-server.md"
        )
        if not (settings.tls.client_ca or settings.auth.required):
            note("warning: whoever reaches gRPC may record, export and erase for any user: see [auth]")

    if settings.auth.required and not read_keys(api_keys_of(workspace, settings)):
        note("warning: every request needs a key, and there is none: recserve keys create")

    def write_ready(server_pid: int) -> None:
        if ready_file is not None:
            addresses = {"grpc": plan.endpoint.grpc, "metrics": plan.endpoint.metrics}
            write_file(ready_file, msgspec.json.encode({**addresses, "pid": os.getpid(), "server_pid": server_pid}))

    supervisor = Supervisor(plan, log, on_ready=write_ready, manager=manager)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.request_stop())
    try:
        ready = supervisor.start()
    except BaseException:
        supervisor.stop()
        raise
    if not ready:
        supervisor.stop()
        return
    gc.enable()
    if not log_json:
        note(f"serving on {plan.endpoint.grpc} (gRPC), metrics on http://{plan.endpoint.metrics}/metrics")
        note(f'try: recserve recommend --address {plan.endpoint.grpc} --text "space opera"')
    try:
        supervisor.watch()
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
        # The interpreter would look through all that was loaded once more before it ends: a quarter of a second.
        gc.freeze()
