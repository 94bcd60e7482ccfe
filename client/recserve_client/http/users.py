"""Operations on interactions and the data of users. No error quotes what may name a user."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw
from starlette.responses import Response

from recserve_client.calls import CHANGE_S
from recserve_client.contract import (
    EraseUser,
    ErasureReceipt,
    ExportUser,
    InteractionResult,
    InteractionsRecorded,
    ReadHistory,
    RecordInteractions,
    Unpacker,
    VerifyErasure,
    models,
    pack,
)
from recserve_client.http.exchange import Exchange, json_response
from recserve_client.http.messages import HistoryQuery, RawInteractions
from recserve_client.http.streams import in_one, stream

#: Lines of a stream that are one recording.
_AT_A_TIME: Final = 1000
_raws: Final = Unpacker[RawInteractions](RawInteractions)
_receipt: Final = Unpacker[ErasureReceipt](ErasureReceipt)
_MALFORMED: Final = InteractionResult("refused", reason="malformed", detail="the line is not JSON")
_recorded: Final = msgspec.json.Decoder(InteractionsRecorded)


async def record(exchange: Exchange) -> Response:
    """Record interactions; of a stream, a result for each line."""
    if exchange.is_stream:

        async def recorded(raws: list[Raw]) -> list[InteractionResult]:
            raw = await exchange.ask(models.INTERACTIONS, pack(RecordInteractions(raws)), CHANGE_S)
            return _recorded.decode(raw).results

        return await stream(exchange, lambda lines: in_one(lines, lambda _: _MALFORMED, recorded), _AT_A_TIME)
    raws = _raws(await exchange.body(), private=True)
    raw = pack(RecordInteractions(raws.interactions))
    return json_response(await exchange.ask(models.INTERACTIONS, raw, CHANGE_S))


async def history(exchange: Exchange) -> Response:
    """The weighted history of a user."""
    limit = exchange.query(HistoryQuery).limit
    raw = pack(ReadHistory(exchange.part("user_id"), limit))
    return json_response(await exchange.ask(models.INTERACTIONS, raw))


async def export(exchange: Exchange) -> Response:
    """All stored data of a user."""
    raw = pack(ExportUser(exchange.part("user_id")))
    return json_response(await exchange.ask(models.INTERACTIONS, raw, CHANGE_S))


async def erase(exchange: Exchange) -> Response:
    """Delete all stored data of a user."""
    raw = pack(EraseUser(exchange.part("user_id")))
    return json_response(await exchange.ask(models.INTERACTIONS, raw, CHANGE_S))


async def verify_erasure(exchange: Exchange) -> Response:
    """Whether a receipt is of this user."""
    receipt = _receipt(await exchange.body(), private=True)
    raw = pack(VerifyErasure(exchange.part("user_id"), receipt))
    return json_response(await exchange.ask(models.INTERACTIONS, raw, CHANGE_S))
