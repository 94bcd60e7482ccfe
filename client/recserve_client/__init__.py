"""The client of recserve: `Client`, `AsyncClient`, requests, results and errors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recserve_client.calls import ServerInfo, item, text
    from recserve_client.client import AsyncClient, Client
    from recserve_client.contract import (
        Behaviour,
        Explore,
        NewInteraction,
        NewItem,
        OldItem,
        Page,
        RecommendRequest,
        Slate,
        SlateItem,
    )
    from recserve_client.contract.slate_options import SlateOptions
    from recserve_client.errors import RecserveError
    from recserve_client.options import ClientOptions
    from recserve_client.results import Reason, reasons
    from recserve_client.user_calls import interaction

_MODULE_OF = {
    "AsyncClient": "recserve_client.client",
    "Behaviour": "recserve_client.contract",
    "Client": "recserve_client.client",
    "ClientOptions": "recserve_client.options",
    "Explore": "recserve_client.contract",
    "NewInteraction": "recserve_client.contract",
    "NewItem": "recserve_client.contract",
    "OldItem": "recserve_client.contract",
    "Page": "recserve_client.contract",
    "Reason": "recserve_client.results",
    "RecommendRequest": "recserve_client.contract",
    "RecserveError": "recserve_client.errors",
    "ServerInfo": "recserve_client.calls",
    "Slate": "recserve_client.contract",
    "SlateItem": "recserve_client.contract",
    "SlateOptions": "recserve_client.contract.slate_options",
    "interaction": "recserve_client.user_calls",
    "item": "recserve_client.calls",
    "reasons": "recserve_client.results",
    "text": "recserve_client.calls",
}

__all__ = [
    "AsyncClient",
    "Behaviour",
    "Client",
    "ClientOptions",
    "Explore",
    "NewInteraction",
    "NewItem",
    "OldItem",
    "Page",
    "Reason",
    "RecommendRequest",
    "RecserveError",
    "ServerInfo",
    "Slate",
    "SlateItem",
    "SlateOptions",
    "interaction",
    "item",
    "reasons",
    "text",
]


def __getattr__(name: str) -> Any:
    """Import on first use, so that `recserve_client.contract` alone needs only msgspec."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'recserve_client' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)
