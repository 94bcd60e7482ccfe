"""Scopes of API keys, and which one a request needs."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from recserve_client.contract import InteractionsRequest, ReadHistory, RecordInteractions, Unpacker, models


class Scope(StrEnum):
    """What a key is good for."""

    #: Recommend and encode texts.
    RECOMMEND = "recommend"
    #: Change and read the catalogue.
    ITEMS = "items"
    #: Record interactions and read weighted histories.
    INTERACTIONS = "interactions"
    #: Export and erase the data of a user, and verify erasures.
    USERS_ERASE = "users.erase"
    #: Everything.
    ADMIN = "admin"


#: Scopes of each model, by its name without a fingerprint; a model that is left out is asked by other models only.
SCOPES_OF_MODEL: Final[Mapping[str, frozenset[Scope]]] = {
    models.RECOMMEND: frozenset({Scope.RECOMMEND}),
    models.EMBED: frozenset({Scope.RECOMMEND}),
    # The steps of `recommend_text` get the key of its caller.
    models.TOKENIZE: frozenset({Scope.RECOMMEND}),
    models.ENCODER: frozenset({Scope.RECOMMEND}),
    models.POOL: frozenset({Scope.RECOMMEND}),
    models.ITEMS: frozenset({Scope.ITEMS}),
    models.INTERACTIONS: frozenset({Scope.INTERACTIONS, Scope.USERS_ERASE}),
}
_unpack: Final = Unpacker[InteractionsRequest](InteractionsRequest)


def scope_of_interactions(raw: bytes) -> Scope:
    """The scope of a packed request to `interactions`, which is decoded as its service decodes it.

    Raises:
        RequestError: It is no such request.
    """
    request = _unpack(raw, private=True)
    return Scope.INTERACTIONS if isinstance(request, RecordInteractions | ReadHistory) else Scope.USERS_ERASE
