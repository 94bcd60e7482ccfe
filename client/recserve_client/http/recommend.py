"""Operations that recommend and encode."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from starlette.responses import Response

from recserve_client.calls import filter_of
from recserve_client.contract import Behaviour, Page, RecommendRequest, models, pack
from recserve_client.errors import PermissionDenied, RecserveError, Unauthenticated
from recserve_client.http.exchange import Exchange, invalid, json_response
from recserve_client.http.messages import SimilarQuery, SlateQuery, UserQuery
from recserve_client.http.problems import problem_of
from recserve_client.http.streams import stream

#: Lines of a stream of requests that are asked at a time; Triton makes batches of them.
_AT_A_TIME: Final = 64


async def recommend(exchange: Exchange) -> Response:
    """A slate; of a stream, one for each line."""
    return await _slates(exchange, models.RECOMMEND)


async def recommend_text(exchange: Exchange) -> Response:
    """A slate through the ensemble."""
    return await _slates(exchange, models.RECOMMEND_TEXT)


async def embed(exchange: Exchange) -> Response:
    """The vectors of texts."""
    return json_response(await exchange.ask(models.EMBED, await exchange.body()))


async def for_user(exchange: Exchange) -> Response:
    """A slate for a user by id."""
    query = exchange.query(UserQuery)
    more = {"stated": query.stated, "exclude_seen": query.exclude_seen, "allow_repeat": query.allow_repeat}
    return await _slate(exchange, query, user_id=exchange.part("user_id"), **more)


async def similar(exchange: Exchange) -> Response:
    """The items most similar to one item."""
    return await _slate(exchange, exchange.query(SimilarQuery), history=[Behaviour(item=exchange.part("item_id"))])


async def _slate(exchange: Exchange, query: SlateQuery, **more: Any) -> Response:
    if query.cursor is not None and query.page_size is None:
        raise invalid("the parameter cursor needs page_size")
    request = RecommendRequest(
        k=query.k,
        exclude=query.exclude,
        fields=query.fields,
        explain=query.explain,
        min_revision=query.min_revision,
        where=filter_of(query.where) if query.where else None,
        count=query.count,
        page=None if query.page_size is None else Page(query.page_size, query.cursor),
        strategy=query.strategy,
        interests=query.interests,
        on_cold=query.on_cold,
        traceparent=exchange.traceparent,
        **more,
    )
    return json_response(await exchange.ask(models.RECOMMEND, pack(request)))


async def _slates(exchange: Exchange, model: str) -> Response:
    if not exchange.is_stream:
        return json_response(await exchange.ask(model, _traced(await exchange.body(), exchange.traceparent)))

    async def one(line: bytes) -> bytes:
        try:
            return await exchange.ask(model, line)
        except (Unauthenticated, PermissionDenied):
            raise  # of the whole stream
        except RecserveError as error:
            return msgspec.json.encode(problem_of(error).problem(exchange.id))

    async def answer(lines: list[bytes]) -> list[bytes]:
        return await asyncio.gather(*map(one, lines))

    return await stream(exchange, answer, _AT_A_TIME)


def _traced(body: bytes, traceparent: str) -> bytes:
    """The request with the span of its header; one that cannot be read is for the server to refuse."""
    if not traceparent:
        return body
    try:
        request = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        return body
    return msgspec.json.encode({"traceparent": traceparent, **request})
