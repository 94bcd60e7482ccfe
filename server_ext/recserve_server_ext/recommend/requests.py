"""Decodes packed requests, and checks what the contract's types cannot express."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from recserve_client.contract import Behaviour, ErrorKind, RecommendRequest, RequestError, Unpacker, nearest, shown
from recserve_client.contract.filters import check_filter
from recserve_client.contract.slate_options import check_slate_options
from recserve_server_ext.batching.request_checks import check_size, too_large
from recserve_server_ext.config.server import Limits

#: A request that contains this may name a user, so that its values are not quoted in messages.
_USER_MARK: Final = b'"user_id"'
#: Options of requests by user id and of requests with a history, and their defaults.
_USER_OPTIONS: Final = attrgetter("session", "stated", "allow_repeat", "variants", "mix", "exclude_seen")
_USER_DEFAULTS: Final[tuple[object, ...]] = ([], [], [], {}, 0.5, True)
_HISTORY_OPTIONS: Final = attrgetter("history", "exclude_history", "on_unknown", "encoder")
_HISTORY_DEFAULTS: Final[tuple[object, ...]] = ([], True, "error", "")
_unpack = Unpacker(RecommendRequest)


def unpack(raw: bytes, limits: Limits) -> RecommendRequest:
    """Decode a packed request.

    Raises:
        RequestError: too_large, invalid_json or invalid_request.
    """
    check_size(raw, limits)
    return _unpack(raw, private=_USER_MARK in raw)


def check_request(request: RecommendRequest, limits: Limits) -> None:
    """Check the history or the options of the user, and that options do not exclude each other.

    Raises:
        RequestError: empty_history, zero_weights, too_large or invalid_request.
    """
    if len(request.exclude) > limits.exclude:
        raise too_large("exclude", len(request.exclude), "ids", "exclude", limits.exclude)
    if request.user_id is None:
        _check_history(request, limits)
    else:
        _check_user(request)
    slate = request.slate
    if slate is not None and slate.quotas and request.explore is not None:
        raise _invalid("explore and quotas exclude each other: exploration could break a quota; leave one of them out")
    if request.walk is not None and request.page is not None and request.page.cursor is not None:
        raise _invalid("walk and a cursor exclude each other: the items were ranked for the first page; ask for that")
    if slate is not None and slate.diversify and request.interests > 1:
        raise _invalid("diversify and interests exclude each other: both diversify a slate; leave one of them out")


def check_now(request: RecommendRequest, limits: Limits, now_s: float) -> None:
    """Check the moment of a replay against the server's time, in seconds since 1970.

    Raises:
        RequestError: invalid_request: the server takes no moment, or not this one, or it does not go with exploration.
    """
    if request.now is None:
        return
    if not limits.replay_s:
        raise _invalid("$.now is not taken by this server: replays are off (the setting limits.replay_s is 0)")
    if not now_s - limits.replay_s <= request.now <= now_s:
        raise _invalid(
            f"$.now is {request.now:.3f}: this server takes {now_s - limits.replay_s:.3f} to {now_s:.3f} "
            "(the setting limits.replay_s)"
        )
    if request.explore is not None and request.explore.kind == "thompson":
        raise _invalid("now and explore by thompson exclude each other: clicks are counted up to today")


def check_shape(request: RecommendRequest, limits: Limits, fields: tuple[str, ...]) -> None:
    """Check the fields, the filter and the slate options of a request.

    Raises:
        RequestError: unknown_field, too_large or invalid_request.
    """
    for name in request.fields:
        if name not in fields:
            raise RequestError(
                ErrorKind.UNKNOWN_FIELD, f"the catalogue has no field {shown(name)}{nearest(name, fields)}"
            )
    if request.where is not None:
        check_filter(request.where, limits.filter)
    if request.slate is not None:
        check_slate_options(request.slate, request.k, limits.filter)


def for_encoder(request: RecommendRequest, encoder: str) -> RecommendRequest:
    """The checked request without vectors of another encoder than this one; their texts are encoded again instead.

    Raises:
        RequestError: invalid_request: a behaviour has such a vector and no text.
    """
    if request.encoder in ("", encoder):
        return request
    history = []
    for position, behaviour in enumerate(request.history):
        if behaviour.vector is not None and behaviour.text is None:
            raise _invalid(
                f"$.history[{position}].vector was made by encoder {shown(request.encoder)}, {encoder} is served: "
                "make it again with `embed`, or send its text too"
            )
        history.append(behaviour if behaviour.vector is None else replace(behaviour, vector=None))
    return replace(request, history=history)


def _check_history(request: RecommendRequest, limits: Limits) -> None:
    if _USER_OPTIONS(request) != _USER_DEFAULTS:
        raise _invalid("session, stated, allow_repeat, variants, mix and exclude_seen need a user_id")
    history = request.history
    if not history:
        raise RequestError(ErrorKind.EMPTY_HISTORY, "history is []: name at least one item or text, or a user_id")
    if len(history) > limits.history:
        raise too_large("history", len(history), "behaviours", "history", limits.history)
    for position, behaviour in enumerate(history):
        no_text = behaviour.text is None and behaviour.vector is None
        if no_text if behaviour.item is None else behaviour.vector is not None:
            raise _invalid(f"$.history[{position}] is {_wrong_content(behaviour)}")
    if not any(behaviour.weight for behaviour in history):
        raise RequestError(ErrorKind.ZERO_WEIGHTS, f"all {len(history)} weights are 0; at least one must not be")


def _check_user(request: RecommendRequest) -> None:
    """Quotes no value in messages: any of them may name a user."""
    if _HISTORY_OPTIONS(request) != _HISTORY_DEFAULTS:
        raise _invalid("history, exclude_history, on_unknown and encoder do not go with a user_id; use session instead")
    for position, behaviour in enumerate(request.session):
        if (behaviour.item is None and behaviour.text is None) or behaviour.vector is not None:
            raise _invalid(f"$.session[{position}] is no item, no text, and no item with a text about it")
        if behaviour.text is not None and not behaviour.text.strip():
            raise _invalid(f"$.session[{position}].text is blank")
    if not all(text.strip() for text in request.stated):
        raise _invalid("a text of $.stated is blank")


def _wrong_content(behaviour: Behaviour) -> str:
    given = [name for name in ("item", "text", "vector") if getattr(behaviour, name) is not None]
    content = " and ".join(given) if given else "without content"
    return f"{content}: give either an item, or a text, or a vector (an item or a vector may come with its text)"


def _invalid(what: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, what)
