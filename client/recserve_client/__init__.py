"""The client of recserve: `Client`, `AsyncClient`, requests, results and errors."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recserve_client.calls import item, text
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
    from recserve_client.server_calls import ServerInfo
    from recserve_client.tls import Tls
    from recserve_client.user_calls import interaction

_NAMES = {
    "calls": ("item", "text"),
    "client": ("AsyncClient", "Client"),
    "contract": (
        "Behaviour", "Explore", "NewInteraction", "NewItem", "OldItem", "Page", "RecommendRequest", "Slate",
        "SlateItem",
    ),
    "contract.slate_options": ("SlateOptions",),
    "errors": ("RecserveError",),
    "options": ("ClientOptions",),
    "results": ("Reason", "reasons"),
    "server_calls": ("ServerInfo",),
    "tls": ("Tls",),
    "user_calls": ("interaction",),
}  # fmt: skip
_MODULE_OF = {name: f"recserve_client.{module}" for module, names in _NAMES.items() for name in names}

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
    "Tls",
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
