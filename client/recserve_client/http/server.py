"""Operations about the server itself."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from recserve_client import server_calls
from recserve_client.contract import ErrorKind
from recserve_client.http.exchange import Exchange, json_response
from recserve_client.http.messages import Health
from recserve_client.http.problems import ProblemError


async def live(exchange: Exchange) -> Response:
    """This process answers."""
    return json_response(msgspec.json.encode(Health("live")))


async def ready(exchange: Exchange) -> Response:
    """The server has just answered a real recommendation from a text."""
    if not await exchange.client.run(server_calls.ready()):
        raise ProblemError(ErrorKind.UNAVAILABLE, "the server does not recommend now")
    return json_response(msgspec.json.encode(Health("ready")))


async def info(exchange: Exchange) -> Response:
    """The server and what it serves."""
    return json_response(msgspec.json.encode(await exchange.client.run(server_calls.server_info())))


async def strategies(exchange: Exchange) -> Response:
    """The strategies of the server."""
    return json_response(msgspec.json.encode(await exchange.client.run(server_calls.strategies())))
