"""The operations of the HTTP API: one table, from which the routes and the OpenAPI document are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from recserve_client.contract import (
    CatalogueItem,
    EmbedRequest,
    EmbedResponse,
    ErasureReceipt,
    ErasureVerified,
    InteractionResult,
    InteractionsRecorded,
    ItemsChanged,
    ItemsFound,
    NewInteraction,
    NewItem,
    OldItem,
    RecommendRequest,
    ServedStrategies,
    Slate,
    UserExport,
    UserHistory,
)
from recserve_client.http import items, recommend, server, users
from recserve_client.http.events.state import ServerState
from recserve_client.http.events.stream import events
from recserve_client.http.exchange import EVENT_STREAM, JSON, Handle
from recserve_client.http.messages import (
    Health,
    HistoryQuery,
    ItemChanged,
    ItemContent,
    ItemIds,
    ListQuery,
    NewInteractions,
    NewItems,
    OldItems,
    SimilarQuery,
    UserQuery,
)
from recserve_client.server_calls import ServerInfo

#: Meaning of the status 200 where there is no more to say.
DONE: Final = "Done."


@dataclass(frozen=True)
class Operation:
    """One operation.

    Attributes:
        name: Its id in the OpenAPI document.
        method: HTTP method.
        path: Path with parameters in braces.
        handle: What it does.
        summary: What it does, in words.
        answer: Type of the answer.
        body: Type of the body, or `None`.
        query: Type of the parameters of the query, or `None`.
        line: Types of a line of a stream and of its answer, or `None`.
        headers: Headers of the request that it takes, and what they mean.
        statuses: Statuses of good answers, and what they mean.
        problems: Statuses of problems beside those of all operations.
        example: Body of an example, or its parameters.
        media: Media type of the answer; of `text/event-stream`, `answer` is the data of an event.
    """

    name: str
    method: str
    path: str
    handle: Handle
    summary: str
    answer: type
    body: type | None = None
    query: type | None = None
    line: tuple[type, type] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    statuses: Mapping[int, str] = field(default_factory=lambda: {200: DONE})
    problems: tuple[int, ...] = ()
    example: Any = None
    media: str = JSON


_KEY: Final = {
    "Idempotency-Key": "A change with the same key is made once, and answered again; at most 128 characters."
}
_IF: Final = {
    "If-Match": "ETag of the item: it is changed only if it is still of this revision.",
}
_IF_NONE: Final = {"If-None-Match": "`*`: the item is written only if it does not exist."}
_KNOWN: Final = {"If-None-Match": "ETag of the item that the caller has: the answer is 304 where it is still the same."}
_LAST: Final = {"Last-Event-ID": "Id of the last event that was heard: the stream goes on after it, where it is held."}
_EXAMPLE_ITEM: Final = {
    "texts": {"title": "The Clockmaker's Comet"},
    "attributes": {"year": 1968},
}
_EXAMPLE_INTERACTION: Final = {"user_id": "ann", "type": "like", "item": "example-1", "timestamp": 1790000000}

OPERATIONS: Final = (
    Operation(
        "recommend", "POST", "/v1/recommend", recommend.recommend, "Recommend items for a history or a user",
        Slate, RecommendRequest, line=(RecommendRequest, Slate), problems=(404, 410, 422),
        example={"history": [{"item": "example-1"}, {"text": "space opera", "weight": 0.5}], "k": 3},
    ),
    Operation(
        "recommend_text", "POST", "/v1/recommend/text", recommend.recommend_text,
        "Recommend items for texts, each of which is encoded", Slate, RecommendRequest,
        line=(RecommendRequest, Slate), problems=(404, 410, 422),
        example={"history": [{"text": "a heist goes wrong"}], "k": 3},
    ),
    Operation(
        "recommend_for", "GET", "/v1/users/{user_id}/recommendations", recommend.for_user,
        "Recommend items for a user by id", Slate, query=UserQuery, problems=(410, 422),
        example={"k": 3, "fields": ["title"]},
    ),
    Operation(
        "similar_items", "GET", "/v1/items/{item_id}/similar", recommend.similar,
        "Recommend the items most similar to one", Slate, query=SimilarQuery, problems=(404, 410, 422),
        example={"k": 3},
    ),
    Operation(
        "embed", "POST", "/v1/embed", recommend.embed, "Encode texts into unit vectors", EmbedResponse, EmbedRequest,
        example={"texts": ["space opera"]},
    ),
    Operation(
        "list_items", "GET", "/v1/items", items.page, "Read items in the order of their ids", ItemsFound,
        query=ListQuery, example={"limit": 2},
    ),
    Operation(
        "upsert_items", "POST", "/v1/items", items.upsert, "Insert or replace items, as one change", ItemsChanged,
        NewItems, line=(NewItem, ItemChanged), headers=_KEY, problems=(422,),
        example={"items": [{"id": "example-1", **_EXAMPLE_ITEM}]},
    ),
    Operation(
        "delete_items", "POST", "/v1/items:delete", items.delete, "Delete items, as one change", ItemsChanged,
        OldItems, line=(OldItem, ItemChanged), headers=_KEY, problems=(422,),
        example={"items": [{"id": "example-9"}]},
    ),
    Operation(
        "get_items", "POST", "/v1/items:get", items.read, "Read items by id", ItemsFound, ItemIds,
        example={"ids": ["example-1", "example-9"]},
    ),
    Operation(
        "put_item", "PUT", "/v1/items/{item_id}", items.put_one, "Insert or replace an item", ItemChanged, ItemContent,
        headers={**_IF, **_IF_NONE, **_KEY}, problems=(412, 422), example=_EXAMPLE_ITEM,
        statuses={200: "The item was updated, or was the same already.", 201: "The item was created."},
    ),
    Operation(
        "get_item", "GET", "/v1/items/{item_id}", items.get_one, "Read an item", CatalogueItem, headers=_KNOWN,
        statuses={200: DONE, 304: "The caller has this revision of the item."}, problems=(404,),
    ),
    Operation(
        "delete_item", "DELETE", "/v1/items/{item_id}", items.delete_one, "Delete an item", ItemChanged,
        headers={**_IF, **_KEY}, problems=(404, 412, 422),
    ),
    Operation(
        "record_interactions", "POST", "/v1/interactions", users.record, "Record interactions", InteractionsRecorded,
        NewInteractions, line=(NewInteraction, InteractionResult),
        example={"interactions": [_EXAMPLE_INTERACTION]},
    ),
    Operation(
        "user_history", "GET", "/v1/users/{user_id}/history", users.history, "Read the weighted history of a user",
        UserHistory, query=HistoryQuery, example={"limit": 10},
    ),
    Operation(
        "export_user", "GET", "/v1/users/{user_id}", users.export, "Read all stored data of a user", UserExport,
    ),
    Operation(
        "erase_user", "DELETE", "/v1/users/{user_id}", users.erase, "Delete all stored data of a user permanently",
        ErasureReceipt,
    ),
    Operation(
        "verify_erasure", "POST", "/v1/users/{user_id}/verify-erasure", users.verify_erasure,
        "Check the receipt of an erasure", ErasureVerified, ErasureReceipt,
        example={"erased_at": 1790000000.0, "interactions": 1, "refused_until": 1790000000.0, "proof": "0" * 64},
    ),
    Operation(
        "strategies", "GET", "/v1/strategies", server.strategies, "List the strategies of the server", ServedStrategies,
    ),
    Operation("server_info", "GET", "/v1/server", server.info, "Read what the server serves", ServerInfo),
    Operation(
        "events", "GET", "/v1/events", events, "Follow what changes of the server", ServerState, media=EVENT_STREAM,
        headers=_LAST,
    ),
    Operation("live", "GET", "/v1/health/live", server.live, "Check that this process answers", Health),
    Operation(
        "ready", "GET", "/v1/health/ready", server.ready, "Check that the server recommends, by a real inference",
        Health,
    ),
)  # fmt: skip
#: Statuses of problems that every operation may answer with.
PROBLEMS: Final = (400, 401, 403, 404, 405, 408, 413, 415, 421, 500, 501, 503, 504)
#: Values of the parameters of paths in examples.
PATH_EXAMPLES: Final = {"item_id": "example-1", "user_id": "ann"}
