"""Descriptions of the calls about users: `client.interactions`, `client.users` and `client.recommend_for`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

import msgspec

from recserve_client.calls import (
    CHANGE_S,
    Call,
    RecommendOptions,
    check_weights,
    model_call,
    reader,
    request,
    request_fields,
)
from recserve_client.contract import (
    Behaviour,
    EraseUser,
    ErasureReceipt,
    ErasureVerified,
    ErrorKind,
    ExportUser,
    InteractionsRecorded,
    NewInteraction,
    ReadHistory,
    RecommendRequest,
    RecordInteractions,
    RequestError,
    Slate,
    UserExport,
    UserHistory,
    VerifyErasure,
    models,
    pack,
)
from recserve_client.errors import from_request

_recorded: Final = reader(InteractionsRecorded)
_history: Final = reader(UserHistory)
_exported: Final = reader(UserExport)
_erased: Final = reader(ErasureReceipt)
_verified: Final = reader(ErasureVerified)


def interaction(
    user_id: str,
    type: str,
    item: str | None = None,
    *,
    text: str | None = None,
    timestamp: float | None = None,
    **more: Any,
) -> NewInteraction:
    """An interaction of a user.

    Args:
        user_id: User id.
        type: Interaction type.
        item: Item id; absent for a text.
        text: Free text; with an item what the user wrote about it.
        timestamp: Seconds since 1970; `None` for now.
        more: Other fields of `NewInteraction`.
    """
    time_s = time.time() if timestamp is None else timestamp
    return NewInteraction(user_id=user_id, type=type, timestamp=time_s, item=item, text=text, **more)


def record(
    interactions: Sequence[NewInteraction], *, deadline_s: float | None = CHANGE_S
) -> Call[InteractionsRecorded]:
    """Record interactions; when the call returns, they are durable and part of every later recommendation.

    Retries are safe: an interaction that is stored already is answered as a duplicate.

    Args:
        interactions: 1 to 10,000 interactions, made by `interaction`.
        deadline_s: Seconds for all tries together.

    Returns:
        The result of each interaction; a refused one does not affect the others.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    raws = [_packed(place, new) for place, new in enumerate(interactions)]
    return model_call(models.INTERACTIONS, RecordInteractions(raws), _recorded, deadline_s)


def history(user_id: str, *, limit: int = 500, deadline_s: float | None = None) -> Call[UserHistory]:
    """The weighted history of a user.

    Args:
        user_id: User id.
        limit: Number of the newest interactions that are read.
        deadline_s: Seconds for all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return model_call(models.INTERACTIONS, ReadHistory(_encodable(user_id), limit), _history, deadline_s)


def export(user_id: str, *, deadline_s: float | None = CHANGE_S) -> Call[UserExport]:
    """All stored data of a user.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return model_call(models.INTERACTIONS, ExportUser(_encodable(user_id)), _exported, deadline_s)


def erase(user_id: str, *, deadline_s: float | None = CHANGE_S) -> Call[ErasureReceipt]:
    """Delete all stored data of a user permanently.

    Returns:
        A receipt to keep, which does not name the user; see `verify_erasure`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return model_call(models.INTERACTIONS, EraseUser(_encodable(user_id)), _erased, deadline_s)


def verify_erasure(
    user_id: str, receipt: ErasureReceipt, *, deadline_s: float | None = CHANGE_S
) -> Call[ErasureVerified]:
    """Whether the server made this receipt for this user, and what it stores of the user now.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return model_call(models.INTERACTIONS, VerifyErasure(_encodable(user_id), receipt), _verified, deadline_s)


def recommend_for(
    user_id: str,
    *,
    session: Sequence[Behaviour] = (),
    mix: float = 0.5,
    stated: Sequence[str] = (),
    exclude_seen: bool = True,
    allow_repeat: Sequence[str] = (),
    variants: Mapping[str, str] | None = None,
    deadline_s: float | None = None,
    **options: Unpack[RecommendOptions],
) -> Call[Slate]:
    """Recommend items for a user by id, from the user's recorded interactions; see `RecommendRequest`.

    Args:
        user_id: User id.
        session: Behaviours of this visit, made by `item` and `text`.
        mix: Share of the session in the history, 0 to 1.
        stated: Texts of interests that the user stated; their share shrinks as interactions arrive.
        exclude_seen: Whether all items that the user ever interacted with, and those of the session, are excluded.
        allow_repeat: Interaction types; an item that the user had only such interactions with may be recommended again.
        variants: Forces experiment variants, by experiment, for tests.
        deadline_s: Seconds for all tries together.
        options: See `recserve_client.calls.RecommendOptions`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_weights(session, "session")
    _check_finite("$.mix", mix)
    message = RecommendRequest(
        user_id=_encodable(user_id),
        session=list(session),
        mix=mix,
        stated=list(stated),
        exclude_seen=exclude_seen,
        allow_repeat=list(allow_repeat),
        variants=dict(variants or {}),
        **request_fields(options),
    )
    return request(message, deadline_s=deadline_s)


def _packed(place: int, new: NewInteraction) -> msgspec.Raw:
    numbers = {name: getattr(new, name) for name in ("timestamp", "value", "duration_s", "price", "quantity")}
    numbers |= {f"context.{name}": value for name, value in new.context.items()}
    for name, value in numbers.items():
        _check_finite(f"$.interactions[{place}].{name}", value)
    _encodable(new.user_id)
    try:
        return msgspec.Raw(pack(new))
    except RequestError as error:
        raise from_request(error) from None


def _check_finite(path: str, value: object) -> None:
    """Refuse numbers that JSON cannot express: they would arrive as null, as if they had been left out."""
    if isinstance(value, float) and not math.isfinite(value):
        raise from_request(RequestError(ErrorKind.INVALID_REQUEST, f"{path} is {value}; it must be a finite number"))


def _encodable(user_id: str) -> str:
    """Refuse a user id that UTF-8 cannot encode, with an error that does not quote it."""
    try:
        user_id.encode()
    except UnicodeEncodeError:
        text = "a user id holds a lone surrogate, which UTF-8 cannot carry"
        raise from_request(RequestError(ErrorKind.INVALID_REQUEST, text)) from None
    return user_id
