"""A request as Python, as a curl line for the HTTP API, and as JSON."""

from __future__ import annotations

import shlex
from typing import Final

import msgspec

from recserve_client.contract import RecommendRequest, pack

_HTTP: Final = "http://127.0.0.1:8080/v1/recommend"
_PYTHON: Final = """\
import msgspec
from recserve_client import Client, RecommendRequest

request = msgspec.json.decode({raw!r}, type=RecommendRequest)
with Client({address!r}) as client:
    slate = client.recommend_many([request])[0]
    print(slate)
"""


def as_json(request: RecommendRequest) -> str:
    """The request as indented JSON."""
    return msgspec.json.format(pack(request), indent=2).decode()


def as_curl(request: RecommendRequest) -> str:
    """A curl line that sends the request to `recserve http`."""
    body = shlex.quote(pack(request).decode())
    return f"curl {_HTTP} -H 'content-type: application/json' -d {body}"


def as_python(request: RecommendRequest, address: str) -> str:
    """A program that sends the request over gRPC."""
    return _PYTHON.format(raw=pack(request), address=address)
