"""Operations about the server itself."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from recserve_client import server_calls
from recserve_client.contract import EmbedRequest, ErrorKind, models, pack
from recserve_client.errors import InvalidRequest
from recserve_client.http.exchange import Exchange, json_response
from recserve_client.http.messages import Health
from recserve_client.http.problems import ProblemError


async def live(exchange: Exchange) -> Response:
    """This process answers."""
    return json_response(msgspec.json.encode(Health("live")))


async def ready(exchange: Exchange) -> Response:
    """The server has just answered a real recommendation from a text."""
    if not await exchange.run(server_calls.ready()):
        raise ProblemError(ErrorKind.UNAVAILABLE, "the server does not recommend now")
    return json_response(msgspec.json.encode(Health("ready")))


async def info(exchange: Exchange) -> Response:
    """The server and what it serves."""
    return json_response(msgspec.json.encode(await exchange.run(server_calls.server_info())))


async def strategies(exchange: Exchange) -> Response:
    """The strategies of the server."""
    await _admit(exchange)
    return json_response(msgspec.json.encode(await exchange.run(server_calls.strategies())))


async def _admit(exchange: Exchange) -> None:
    """Have the key checked, which Triton does not for what it answers itself: by a request that is wrong anyway."""
    try:
        await exchange.ask(models.EMBED, pack(EmbedRequest([])))
    except InvalidRequest as error:
        if error.kind is not ErrorKind.INVALID_REQUEST:
            raise
