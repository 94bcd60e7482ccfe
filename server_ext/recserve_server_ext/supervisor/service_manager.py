"""What the supervisor tells systemd: ready, alive, stopping (the protocol of sd_notify(3), Type=notify)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class ServiceManager:
    """Sends states to the socket that the environment names; does nothing where it names none."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        """
        Args:
            environment: That of the process; what says where the socket is goes from it, for no child may write there.
        """
        address, *_ = [environment.pop(name, "") for name in _VARIABLES]
        # A name that starts with @ is in the abstract namespace of Linux.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None

    @classmethod
    def of_process(cls) -> ServiceManager:
        """The service manager that started this process."""
        return cls(os.environ)

    def tell(self, **state: str | int) -> None:
        """Send a state, such as READY=1; a service manager that is away is no fault of the server."""
        if self._socket is not None:
            lines = "\n".join(f"{name}={value}" for name, value in state.items())
            with suppress(OSError):
                self._socket.sendto(lines.encode(), self._address)
