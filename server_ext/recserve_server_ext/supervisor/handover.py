"""The handover of ports from one server to the next: it stops listening, and ends when nobody is connected."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from contextlib import suppress
from typing import Any, Final

import psutil

from recserve_server_ext.triton.process import Endpoint, TritonProcess

#: Number of the system call on every architecture.
_PIDFD_GETFD: Final = 438
#: A connection ends at its age, give or take a tenth, when its calls have been answered.
_LONGER: Final = 1.1
_CALLS_S: Final = 30.0
#: A busy server accepts a connection after milliseconds.
_ACCEPT_S: Final = 5.0
_POLL_S: Final = 0.001


def close_listener(pid: int, port: int, *, quiet: bool = False) -> list[socket.socket]:
    """Let a process of ours stop listening on a TCP port. Its connections stay.

    tritonserver has no way to be told so, and a stopping one refuses what comes over its connections before it closes
    them. So its socket is borrowed and shut down, once no connection waits there to be accepted: it would be reset.

    Args:
        pid: Of the process.
        port: The port.
        quiet: Whether the owner is told of nothing more: the loop of Triton's metrics would ask a closed socket for
            connections again and again, with all of a core and a line in the log each time.

    Returns:
        Sockets of ours that keep it quiet, until they are closed; none where that was not asked for.

    Raises:
        OSError: The system does not allow that, as in most containers, or the process does not listen there.
    """
    found = [one.fd for one in _connections(pid) if one.status == psutil.CONN_LISTEN and one.laddr.port == port]
    if not found:
        raise OSError(f"process {pid} does not listen on port {port}")
    libc = ctypes.CDLL(None, use_errno=True)
    peers: list[socket.socket] = []
    process = os.pidfd_open(pid)
    try:
        for descriptor in found:
            borrowed = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
            if borrowed < 0:
                code = ctypes.get_errno()
                raise OSError(code, f"sockets of process {pid} cannot be borrowed: {os.strerror(code)}")
            with socket.socket(fileno=borrowed) as listener:
                until = time.monotonic() + _ACCEPT_S
                while _queued(listener) and time.monotonic() < until:
                    time.sleep(_POLL_S)
                listener.shutdown(socket.SHUT_RDWR)
                if quiet:
                    peers.append(_connected(listener))
    finally:
        os.close(process)
    return peers


def _connected(closed: socket.socket) -> socket.socket:
    """The other end of a connection that a closed socket makes to us, over which nothing comes."""
    with socket.socket(closed.family) as door:
        door.bind(("::1" if closed.family == socket.AF_INET6 else "127.0.0.1", 0))
        door.listen(1)
        door.settimeout(_ACCEPT_S)
        with suppress(BlockingIOError):
            closed.connect(door.getsockname())
        return door.accept()[0]


class Retiring:
    """A server that another one has taken over from.

    Attributes:
        process: The server.
    """

    def __init__(self, process: TritonProcess, endpoint: Endpoint) -> None:
        self.process = process
        self._port = endpoint.grpc_port
        age_s = 0.0 if endpoint.tls is None else endpoint.tls.connection_age_s
        self._until = time.monotonic() + _LONGER * age_s + _CALLS_S

    @property
    def is_idle(self) -> bool:
        """Whether it has ended, nobody is connected, or it has waited long enough."""
        if self.process.exit_code() is not None or time.monotonic() > self._until:
            return True
        return not any(
            one.laddr.port == self._port and one.status == psutil.CONN_ESTABLISHED
            for one in _connections(self.process.pid)
        )


def _queued(listener: socket.socket) -> int:
    """Connections that wait to be accepted: the field `tcpi_unacked` of a listening socket, see tcp(7)."""
    found: int = struct.unpack_from("I", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 24)[0]
    return found


def _connections(pid: int) -> list[Any]:
    """TCP sockets of a process of ours; none where it has ended."""
    try:
        return list(psutil.Process(pid).net_connections("tcp"))
    except psutil.NoSuchProcess:
        return []
