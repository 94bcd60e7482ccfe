"""Frames of HTTP/2 (RFC 9113), written by hand: what no well-behaved client would send."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Mapping

from recserve_client import Tls

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS = 1, 4
_CANCEL = 8


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(stream: int, fields: Mapping[str, str], flags: int = END_HEADERS) -> bytes:
    """A frame with headers as plain literals of less than 127 bytes (RFC 7541, 6.2.2)."""
    block = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(HEADERS, flags, stream, block)


def reset(stream: int) -> bytes:
    """A frame that cancels a stream."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", _CANCEL))


def call(authority: str, key: str) -> dict[str, str]:
    """Headers of a gRPC call of ModelInfer."""
    return {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/inference.GRPCInferenceService/ModelInfer",
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
        "authorization": f"Bearer {key}",
    }


def connect(address: str, tls: Tls | None, timeout_s: float = 60) -> socket.socket:
    """A connection that has not said anything yet."""
    host, _, port = address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout_s)
    if tls is None:
        return plain
    context = ssl.create_default_context(cafile=str(tls.ca))
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(plain, server_hostname=host)


def ended(connection: socket.socket, count: int) -> set[int]:
    """Read until so many streams have ended, or the connection; their numbers."""
    found: set[int] = set()
    held = b""
    while len(found) < count:
        while len(held) < 9 or len(held) < 9 + int.from_bytes(held[:3], "big"):
            read = connection.recv(65536)
            if not read:
                return found
            held += read
        kind, flags, stream = struct.unpack(">BBI", held[3:9])
        if kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM):
            found.add(stream)
        held = held[9 + int.from_bytes(held[:3], "big") :]
    return found


def is_closed(connection: socket.socket) -> bool:
    """Wait until the other side closes the connection; whether it did so in time."""
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
