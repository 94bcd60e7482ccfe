"""The requests about users, each written once as a description of its call: `client.interactions`, `client.users`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Unpack

import msgspec

from recserve_client.calls import Call, RecommendOptions, check_weights, decoded, infer, request, request_fields
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

_RECORDED: Final = msgspec.json.Decoder(InteractionsRecorded)
_HISTORY: Final = msgspec.json.Decoder(UserHistory)
_EXPORT: Final = msgspec.json.Decoder(UserExport)
_RECEIPT: Final = msgspec.json.Decoder(ErasureReceipt)
_VERIFIED: Final = msgspec.json.Decoder(ErasureVerified)
#: Many interactions, or an erasure that waits for readers, take a while.
_CHANGE_S: Final = 60.0


def interaction(
    user_id: str,
    type: str,
    item: str | None = None,
    *,
    text: str | None = None,
    timestamp: float | None = None,
    **more: Any,
) -> NewInteraction:
    """What a user did, now unless `timestamp` says otherwise; `more` are the other fields of `NewInteraction`."""
    when = time.time() if timestamp is None else timestamp
    return NewInteraction(user_id=user_id, type=type, timestamp=when, item=item, text=text, **more)


def record(
    interactions: Sequence[NewInteraction], *, deadline_s: float | None = _CHANGE_S
) -> Call[InteractionsRecorded]:
    """Record interactions; when it returns those recorded are durable, and in every recommendation from then on.

    Trying again is safe: one that is there already is answered as a duplicate.

    Args:
        interactions: 1 to 10,000, made by `interaction`.
        deadline_s: For all tries together.

    Returns:
        What became of each; one that is refused does not hold up the others.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    raws = [_packed(place, found) for place, found in enumerate(interactions)]
    return Call("ModelInfer", infer(models.INTERACTIONS, RecordInteractions(raws)), _recorded, deadline_s)


def history(user_id: str, *, limit: int = 500, deadline_s: float | None = None) -> Call[UserHistory]:
    """The weighted history that a user is recommended from.

    Args:
        user_id: Of the user.
        limit: Interactions that are read at most: the newest.
        deadline_s: For all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    message = ReadHistory(_carried(user_id), limit)
    return Call("ModelInfer", infer(models.INTERACTIONS, message), _read_history, deadline_s)


def export(user_id: str, *, deadline_s: float | None = _CHANGE_S) -> Call[UserExport]:
    """All that is held of a user.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", infer(models.INTERACTIONS, ExportUser(_carried(user_id))), _exported, deadline_s)


def erase(user_id: str, *, deadline_s: float | None = _CHANGE_S) -> Call[ErasureReceipt]:
    """Remove all that is held of a user, for good.

    Returns:
        A receipt to keep, which does not name the user; see `verify_erasure`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    return Call("ModelInfer", infer(models.INTERACTIONS, EraseUser(_carried(user_id))), _erased, deadline_s)


def verify_erasure(
    user_id: str, receipt: ErasureReceipt, *, deadline_s: float | None = _CHANGE_S
) -> Call[ErasureVerified]:
    """Whether the server gave this receipt for this user, and what it holds of the user now.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    message = VerifyErasure(_carried(user_id), receipt)
    return Call("ModelInfer", infer(models.INTERACTIONS, message), _verified, deadline_s)


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
    """Recommend items for a user by id, from what was recorded of the user; see `RecommendRequest`.

    Args:
        user_id: Of the user.
        session: Behaviours of this visit, made by `item` and `text`.
        mix: The part of the session in the history, 0 to 1.
        stated: Texts of what the user says to like; they fade as interactions arrive.
        exclude_seen: Whether every item that the user ever had to do with, and those of the session, stay out.
        allow_repeat: Types of interactions; an item of which only such are known may come again.
        variants: For tests: variants by experiment, in place of those that the user was assigned.
        deadline_s: For all tries together.
        options: See `recserve_client.calls.RecommendOptions`.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    check_weights(session, "session")
    _check_finite("$.mix", mix)
    message = RecommendRequest(
        user_id=_carried(user_id),
        session=list(session),
        mix=mix,
        stated=list(stated),
        exclude_seen=exclude_seen,
        allow_repeat=list(allow_repeat),
        variants=dict(variants or {}),
        **request_fields(options),
    )
    return request(message, deadline_s=deadline_s)


def _packed(place: int, found: NewInteraction) -> msgspec.Raw:
    numbers = {name: getattr(found, name) for name in ("timestamp", "value", "duration_s", "price", "quantity")}
    numbers |= {f"context.{name}": value for name, value in found.context.items()}
    for name, value in numbers.items():
        _check_finite(f"$.interactions[{place}].{name}", value)
    _carried(found.user_id)
    try:
        return msgspec.Raw(pack(found))
    except RequestError as error:
        raise from_request(error) from None


def _check_finite(place: str, value: object) -> None:
    """Refuse what JSON cannot carry: it would arrive as null, as if it had been left out."""
    if isinstance(value, float) and not math.isfinite(value):
        raise from_request(RequestError(ErrorKind.INVALID_REQUEST, f"{place} is {value}; it must be a finite number"))


def _carried(user_id: str) -> str:
    """The user id, if JSON can carry it: the message about other texts would quote it."""
    try:
        user_id.encode()
    except UnicodeEncodeError:
        text = "a user id holds a lone surrogate, which UTF-8 cannot carry"
        raise from_request(RequestError(ErrorKind.INVALID_REQUEST, text)) from None
    return user_id


def _recorded(answer: Any) -> InteractionsRecorded:
    return decoded(_RECORDED, answer)


def _read_history(answer: Any) -> UserHistory:
    return decoded(_HISTORY, answer)


def _exported(answer: Any) -> UserExport:
    return decoded(_EXPORT, answer)


def _erased(answer: Any) -> ErasureReceipt:
    return decoded(_RECEIPT, answer)


def _verified(answer: Any) -> ErasureVerified:
    return decoded(_VERIFIED, answer)
