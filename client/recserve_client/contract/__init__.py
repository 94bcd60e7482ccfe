"""The contract between clients and servers: model and tensor names, message types, packing, errors.

Needs msgspec and nothing else.
"""

from recserve_client.contract.errors import MEANING_OF, STATUS_OF, ErrorKind, split_message
from recserve_client.contract.items import (
    CatalogueItem,
    DeleteItems,
    GetItems,
    ItemResult,
    ItemsChanged,
    ItemsFound,
    ItemsRequest,
    ListItems,
    NewItem,
    OldItem,
    UpsertItems,
)
from recserve_client.contract.messages import (
    Behaviour,
    EmbedRequest,
    EmbedResponse,
    EmbedTimings,
    Page,
    RecommendRequest,
    RecommendTimings,
    Slate,
    SlateItem,
)
from recserve_client.contract.packing import RequestError, Unpacker, bytes_element, nearest, pack, shown

__all__ = [
    "MEANING_OF",
    "STATUS_OF",
    "Behaviour",
    "CatalogueItem",
    "DeleteItems",
    "EmbedRequest",
    "EmbedResponse",
    "EmbedTimings",
    "ErrorKind",
    "GetItems",
    "ItemResult",
    "ItemsChanged",
    "ItemsFound",
    "ItemsRequest",
    "ListItems",
    "NewItem",
    "OldItem",
    "Page",
    "RecommendRequest",
    "RecommendTimings",
    "RequestError",
    "Slate",
    "SlateItem",
    "Unpacker",
    "UpsertItems",
    "bytes_element",
    "nearest",
    "pack",
    "shown",
    "split_message",
]
