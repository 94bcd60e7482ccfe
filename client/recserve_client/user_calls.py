"""The requests about users, each written once as a description of its call: `client.interactions`, `client.users`."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from recserve_client.calls import Call, decoded, filter_of, infer
from recserve_client.contract import (
    Behaviour,
    EraseUser,
    ErasureReceipt,
    ErasureVerified,
    ErrorKind,
    Explore,
    ExportUser,
    InteractionsRecorded,
    NewInteraction,
    PopularWindow,
    ReadHistory,
    RecommendForRequest,
    RecordInteractions,
    RequestError,
    UserExport,
    UserHistory,
    UserSlate,
    VerifyErasure,
    models,
    pack,
)
from recserve_client.contract.filters import Filter
from recserve_client.contract.slate_options import Recency, SlateOptions
from recserve_client.errors import from_request

_RECORDED: Final = msgspec.json.Decoder(InteractionsRecorded)
_HISTORY: Final = msgspec.json.Decoder(UserHistory)
_EXPORT: Final = msgspec.json.Decoder(UserExport)
_RECEIPT: Final = msgspec.json.Decoder(ErasureReceipt)
_VERIFIED: Final = msgspec.json.Decoder(ErasureVerified)
_SLATE: Final = msgspec.json.Decoder(UserSlate)
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
    k: int = 10,
    exclude: Sequence[str] = (),
    fields: Sequence[str] = (),
    explain: bool = True,
    on_cold: Literal["popularity", "error"] = "popularity",
    strategy: Literal["text", "blend"] = "text",
    interests: int = 1,
    context: Mapping[str, str] | None = None,
    popular_window: PopularWindow = "mixed",
    explore: Explore | None = None,
    new_items: Recency | None = None,
    ef: int | None = None,
    min_revision: int = 0,
    where: Filter | str | None = None,
    slate: SlateOptions | None = None,
    count: bool = False,
    variants: Mapping[str, str] | None = None,
    deadline_s: float | None = None,
) -> Call[UserSlate]:
    """Recommend items for a user by id, from what was recorded of the user; see `RecommendForRequest`.

    Args:
        user_id: Of the user.
        session: Behaviours of this visit, made by `item` and `text`.
        mix: The part of the session in the history, 0 to 1.
        stated: Texts of what the user says to like; they fade as events arrive.
        exclude_seen: Whether every item that the user ever had to do with, and those of the session, stay out.
        allow_repeat: Types of interactions; an item of which only such are known may come again.
        k: Number of items wanted, 1 to 1,000.
        exclude: Item ids that must not be recommended.
        fields: Fields of the items to return.
        explain: Whether each item comes with its contributions, and the answer with the history they refer to.
        on_cold: For a user without a usable history: recommend what is popular, or refuse.
        strategy: `text`, or `blend` of item-to-item counts, text and recent popularity.
        interests: The most interests that the history is parted into, 1 to 8.
        context: Of this visit; decides, where the server counts by it, among whom an item is popular.
        popular_window: Within which time: `day`, `week`, `month`, `all` of the log, or `mixed`.
        explore: Whether and how to try other candidates.
        new_items: Favour new items: a share by age, which also makes them candidates.
        ef: Width of the HNSW search; none = the index's own.
        min_revision: Answer from this revision of the catalogue or a later one.
        where: Only items that match: a filter, or its text.
        slate: How the slate is made of the candidates; none = by score.
        count: Whether to count the items that match `where`.
        variants: For tests: variants by experiment, in place of those that the user was assigned.
        deadline_s: For all tries together.

    Raises:
        RecserveError: See `recserve_client.errors`.
    """
    for place, behaviour in enumerate(session):
        _check_finite(f"$.session[{place}].weight", behaviour.weight)
    _check_finite("$.mix", mix)
    message = RecommendForRequest(
        user_id=_carried(user_id),
        session=list(session),
        mix=mix,
        exclude_seen=exclude_seen,
        k=k,
        exclude=list(exclude),
        fields=list(fields),
        explain=explain,
        on_cold=on_cold,
        stated=list(stated),
        allow_repeat=list(allow_repeat),
        strategy=strategy,
        interests=interests,
        context=dict(context or {}),
        popular_window=popular_window,
        explore=explore,
        new_items=new_items,
        ef=ef,
        min_revision=min_revision,
        where=filter_of(where),
        slate=slate,
        count=count,
        variants=dict(variants or {}),
    )
    return Call("ModelInfer", infer(models.RECOMMEND, message), _slate, deadline_s)


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


def _slate(answer: Any) -> UserSlate:
    return decoded(_SLATE, answer)
