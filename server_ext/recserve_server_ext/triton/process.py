"""One tritonserver process: command line, environment, start and end."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import psutil

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.common.units import MIB
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.triton.binary import TritonBinary
from recserve_server_ext.triton.repository import BACKENDS, LIBRARIES, MODELS
from recserve_server_ext.triton.tls import ServerTls

_PR_SET_PDEATHSIG = 1
_HUGE_PAGES = "glibc.malloc.hugetlb=1"
_RESTRICTED = "model-repository,shared-memory,trace,logging"
_ADMIN_HEADER = "recserve-admin"
#: Size of the shared memory of each Python model; it takes up what was used. A region that grows while another thread
#: of the model uses it has killed the model under overload.
_REGION_BYTES = 4 * MIB
#: POSIX shared memory of Linux; every Python model has a region there.
_SHARED = Path("/dev/shm")
_FORWARDED = "--grpc-header-forward-pattern=^authorization$"
#: Longest path of a Unix socket on Linux.
_SOCKET_BYTES = 107
_LOG = "triton.log"
_PREVIOUS_LOG = "triton.log.1"
_LOG_BYTES = 32 * MIB
#: Size of the end of the log that is searched for the cause of a fault.
_QUOTED_BYTES = 64 * 1024
#: How long Triton waits for requests in flight when it stops.
_DRAIN_S = 20
_STOP_POLL_S = 0.05
#: Deadline of a connection within this machine.
_CONNECT_S = 1.0


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens.

    Attributes:
        host: An IP address; that of a wildcard (0.0.0.0, ::) stands for all of this machine.
        grpc_port: Port of gRPC.
        metrics_port: Port of the Prometheus metrics.
        tls: TLS of gRPC; `None` for plain text.
        own_key: Key of the calls of the server itself; empty where no key is asked for.
        metrics_host: IP address of the metrics; empty for `host`.
        socket: Path of the Unix socket of gRPC, which the port is added to; empty for `host` and the port.
    """

    host: str
    grpc_port: int
    metrics_port: int
    tls: ServerTls | None = None
    own_key: str = field(default="", repr=False)
    metrics_host: str = ""
    socket: str = ""

    @property
    def grpc(self) -> str:
        """host:port, or unix:path, at which a caller on this machine reaches gRPC."""
        if self.socket:
            return f"unix:{self.socket}:{self.grpc_port}"
        return f"{_in_url(_reached(self.host))}:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        """host:port at which a caller on this machine reaches the Prometheus metrics."""
        return f"{_in_url(_reached(self.metrics_host or self.host))}:{self.metrics_port}"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach gRPC."""
        return bool(self.socket) or ipaddress.ip_address(self.host).is_loopback

    @property
    def is_listening(self) -> bool:
        """Whether somebody accepts connections of gRPC there; tritonserver does once all models are loaded."""
        host = _reached(self.host)
        tcp = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(socket.AF_UNIX if self.socket else tcp, socket.SOCK_STREAM) as caller:
            caller.settimeout(_CONNECT_S)
            if caller.connect_ex(f"{self.socket}:{self.grpc_port}" if self.socket else (host, self.grpc_port)):
                return False
            # Where nobody listens, a port may be connected with itself.
            return bool(self.socket) or caller.getsockname() != caller.getpeername()

    @property
    def has_local_metrics(self) -> bool:
        """Whether only this machine can reach the metrics."""
        return ipaddress.ip_address(self.metrics_host or self.host).is_loopback

    @property
    def options(self) -> list[str]:
        """Options of tritonserver; its gRPC and its metrics write IPv6 addresses in two ways."""
        metrics = self.metrics_host or self.host
        return [
            f"--grpc-address={f'unix:{self.socket}' if self.socket else _in_url(self.host)}",
            f"--grpc-port={self.grpc_port}",
            f"--metrics-address={'ipv6:' * (':' in metrics)}{metrics}",
            f"--metrics-port={self.metrics_port}",
            *(self.tls.options if self.tls is not None else ()),
            # Headers that match become parameters of the request, which Python models see.
            *([_FORWARDED] if self.own_key else ()),
        ]


def _reached(host: str) -> str:
    """The address at which a caller on this machine reaches what listens on a host."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def claim_port(host: str, port: int, what: str) -> int:
    """The port, or any free one for 0; raises LaunchError where this machine cannot listen there."""
    with _listen(_resolved(host), port, what) as listener:
        return int(listener.getsockname()[1])


def endpoint_of(settings: ServeSettings) -> Endpoint:
    """Where a server with these settings listens, without its TLS and its key; raises LaunchError."""
    path = str(Path(settings.grpc_socket).absolute()) if settings.grpc_socket else ""
    return claim_endpoint(
        settings.host,
        settings.grpc_port,
        settings.metrics_port,
        metrics_host=settings.metrics_host,
        socket_path=path,
    )


def exposure(settings: ServeSettings) -> str:
    """What anybody who reaches it could read or do, and what to set instead; empty where that is nothing.

    Raises:
        LaunchError: The address to listen on is none of this machine.
    """
    endpoint = endpoint_of(msgspec.structs.replace(settings, grpc_port=0, metrics_port=0))
    tls, target = settings.tls, settings.encoder.target
    if not endpoint.has_local_metrics:
        return (
            f"{settings.metrics_host or settings.host} is not loopback, and the metrics are plain text without a key: "
            'set metrics_host = "127.0.0.1" in the settings'
        )
    if endpoint.is_local:
        return ""
    open_to_all = f"{settings.host} is not loopback, and "
    if not tls.cert:
        return f"{open_to_all}gRPC is plain text: set cert and key in the table [tls] of the settings"
    if not (settings.auth.required or tls.client_ca):
        return (
            f"{open_to_all}whoever reaches gRPC may do anything: set required in the table [auth] of the settings, or "
            "client_ca in [tls]"
        )
    if not tls.client_ca and target != "embedded":
        return (
            f"{open_to_all}an encoder of target {target} asks for no key: set client_ca in the table [tls] of the "
            "settings"
        )
    return ""


def claim_endpoint(
    host: str, grpc_port: int, metrics_port: int, *, metrics_host: str = "", socket_path: str = ""
) -> Endpoint:
    """Two different free ports; 0 stands for any. Raises LaunchError."""
    address, metrics_address = _resolved(host), _resolved(metrics_host) if metrics_host else ""
    metrics_at = metrics_address or address
    if len(f"{socket_path}:65535".encode()) > _SOCKET_BYTES:
        raise LaunchError(f"the path {socket_path} is too long for a Unix socket: choose a shorter grpc_socket")
    # With a socket the port is a part of its name only.
    wanted = 0 if socket_path else grpc_port
    with _listen(address, wanted, "grpc") as grpc, _listen(metrics_at, metrics_port, "metrics") as metrics:
        found, metrics_found = (int(one.getsockname()[1]) for one in (grpc, metrics))
    port = grpc_port if socket_path and grpc_port else found
    return Endpoint(address, port, metrics_found, metrics_host=metrics_address, socket=socket_path)


def _resolved(host: str) -> str:
    """The IP address of a host, IPv4 where it has both: Triton's metrics take no names.

    Raises:
        LaunchError: It has none.
    """
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host else []
    except (OSError, UnicodeError):
        found = []
    addresses = [str(address[0]) for _, _, _, _, address in sorted(found, key=lambda one: one[0] != socket.AF_INET)]
    if not addresses:
        raise LaunchError(f"{host!r} is no address to listen on; name an IP address or a host of this machine: --host")
    return addresses[0].partition("%")[0]


def _listen(host: str, port: int, what: str) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    # Otherwise a port in TIME_WAIT would look taken; a port with a listener stays refused.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise LaunchError(
            f"cannot listen on {_in_url(host)}:{port} for {what}: {error.strerror}; "
            f"stop what listens there, or choose another with --{what}-port (0 = any free one)"
        ) from None
    return listener


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class TritonProcess:
    """A running tritonserver in a session of its own; it dies with the thread that started it.

    Attributes:
        held: Sockets that are closed when it has ended, see `close_listener`.
    """

    def __init__(self, binary: TritonBinary, folder: Path, endpoint: Endpoint) -> None:
        """Start the server, without waiting until it is ready."""
        self.held: list[socket.socket] = []
        self.log = folder / _LOG
        self._models = folder / MODELS
        self._secret = secrets.token_hex(16)
        self._regions = f"recserve_{secrets.token_hex(8)}_"
        # Looked up here: after the fork only what is safe in a process with threads may run.
        die_with_parent = partial(ctypes.CDLL(None).prctl, _PR_SET_PDEATHSIG, signal.SIGTERM)
        # Appended: the last words of the server before must survive a restart, and after `bound_log` no hole must come
        # before what is written.
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command(binary, folder, endpoint),
                env=child_environment(binary, folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    @property
    def admin(self) -> list[tuple[str, str]]:
        """gRPC metadata that gives access to the restricted protocols."""
        return [(f"triton-grpc-protocol-{_ADMIN_HEADER}", self._secret)]

    def exit_code(self) -> int | None:
        """Exit code, or `None` while it runs."""
        return self._process.poll()

    def living_stubs(self) -> set[str]:
        """Names of the Python models whose process is alive."""
        try:
            children = psutil.Process(self.pid).children()
        except psutil.NoSuchProcess:
            return set()
        return {name for child in children for name in self._model_of(child)}

    def _model_of(self, process: psutil.Process) -> set[str]:
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                return set()
            paths = [Path(argument) for argument in process.cmdline() if argument.startswith(f"{self._models}/")]
        except psutil.Error:
            return set()
        return {path.relative_to(self._models).parts[0] for path in paths}

    def bound_log(self) -> None:
        """Start the log anew when it has grown too large; the full one is kept beside it."""
        with suppress(OSError):  # watching goes on with a full disk or without the log
            if self.log.stat().st_size > _LOG_BYTES:
                shutil.copyfile(self.log, self.log.with_name(_PREVIOUS_LOG))
                os.truncate(self.log, 0)
                self._log_start = 0

    def last_lines(self, count: int = 5) -> str:
        """The last lines of its log about errors, or else the last lines."""
        with self.log.open("rb") as log:
            log.seek(max(self._log_start, log.seek(0, os.SEEK_END) - _QUOTED_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E", "error"))]
        return "\n".join((errors or lines)[-count:])

    def stop(self) -> bool:
        """Let it finish its requests, and end it.

        Triton ends the Python processes when it has no requests left. After that it only waits: up to a second for
        nothing, and until its timeout for a model whose process had died, which it never unloads.

        Returns:
            Whether it had finished its requests in time.
        """
        if self.exit_code() is None:
            self._process.send_signal(signal.SIGTERM)
            until = time.monotonic() + _DRAIN_S + 5
            while self.exit_code() is None and self.living_stubs() and time.monotonic() < until:
                time.sleep(_STOP_POLL_S)
        has_drained = self.exit_code() in (None, 0) and not self.living_stubs()
        self.kill()
        return has_drained

    def kill(self) -> None:
        """End it at once, with the Python processes and the shared memory that a dead server leaves behind."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for one in self.held:
            one.close()
        for left in _SHARED.glob(f"{self._regions}*"):
            left.unlink(missing_ok=True)

    def _command(self, binary: TritonBinary, folder: Path, endpoint: Endpoint) -> list[str]:
        models = list(self._models.glob("*"))
        command = [
            str(binary.server),
            f"--model-repository={folder / MODELS}",
            "--model-control-mode=explicit",
            "--load-model=*",
            # All side by side: by default the last of them wait for the first, with two cores those beyond four.
            f"--model-load-thread-count={max(1, len(models))}",
            # The configurations are complete, and completing them would start every Python model twice.
            "--disable-auto-complete-config",
            "--allow-http=false",
            *endpoint.options,
            f"--grpc-restricted-protocol={_RESTRICTED}:{_ADMIN_HEADER}={self._secret}",
            "--allow-gpu-metrics=false",
            "--strict-readiness=true",
            f"--exit-timeout-secs={_DRAIN_S}",
            f"--backend-config=python,shm-region-prefix-name={self._regions}",
            f"--backend-config=python,shm-default-byte-size={_REGION_BYTES}",
        ]
        if binary.backends is not None:
            command.append(f"--backend-directory={folder / BACKENDS}")
        return command


def child_environment(binary: TritonBinary, folder: Path) -> dict[str, str]:
    """Environment of a server and its Python processes."""
    environment = dict(os.environ)
    # A stub takes the first python3 on PATH for its own, and finds its standard library from there.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    # The wheel's stubs ignore it (see `recserve_server_ext.triton.repository`); another server may not.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    # Threads of BLAS would only compete with those of hnswlib and onnxruntime for the cores.
    environment["OPENBLAS_NUM_THREADS"] = environment["OMP_NUM_THREADS"] = "1"
    environment["TOKENIZERS_PARALLELISM"] = "true"
    environment["GLIBC_TUNABLES"] = with_huge_pages(environment.get("GLIBC_TUNABLES", ""))
    if binary.libraries is not None:
        paths = [str(folder / LIBRARIES), str(binary.libraries), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def with_huge_pages(tunables: str) -> str:
    """glibc's tunables with huge pages for `malloc`, unless they already say otherwise.

    A graph search jumps through all vectors, and with pages of 4 KiB most jumps miss the TLB: huge pages make it 3 to
    8% cheaper. Nothing changes where the kernel has none (`transparent_hugepage/enabled` is `never`).
    """
    if _HUGE_PAGES.partition("=")[0] in tunables:
        return tunables
    return f"{tunables}:{_HUGE_PAGES}" if tunables else _HUGE_PAGES
