"""Packed requests -> checked requests: what the types of the contract cannot say."""

from __future__ import annotations

from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from recserve_client.contract import Behaviour, ErrorKind, RecommendRequest, RequestError, Unpacker, nearest, shown
from recserve_client.contract.filters import check_filter
from recserve_client.contract.slate_options import check_slate_options
from recserve_server_ext.batching.request_checks import check_size, too_large
from recserve_server_ext.config.server import Limits

#: Whatever names it may name a user, and is not quoted.
_MARK: Final = b'"user_id"'
#: What only a request with a user id has, and what only one with a history, and what says nothing.
_OF_USERS: Final = attrgetter("session", "stated", "allow_repeat", "variants", "mix", "exclude_seen")
_NOT_OF_USERS: Final[tuple[object, ...]] = ([], [], [], {}, 0.5, True)
_OF_HISTORIES: Final = attrgetter("history", "exclude_history", "on_unknown", "encoder")
_NOT_OF_HISTORIES: Final[tuple[object, ...]] = ([], True, "error", "")
_unpack = Unpacker(RecommendRequest)


def unpack(raw: bytes, limits: Limits) -> RecommendRequest:
    """Decode a packed request.

    Raises:
        RequestError: too_large, invalid_json or invalid_request.
    """
    check_size(raw, limits)
    return _unpack(raw, private=_MARK in raw)


def check_request(request: RecommendRequest, limits: Limits) -> None:
    """Check what a request says of the user, and that its options go together.

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
        raise _invalid("explore cannot be had with quotas, which it might break; leave one of them out")
    if slate is not None and slate.diversify and request.interests > 1:
        raise _invalid("diversify and interests both spread a slate; leave one of them out")


def check_shape(request: RecommendRequest, limits: Limits, fields: tuple[str, ...]) -> None:
    """Check what is asked of the items.

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


def of_encoder(request: RecommendRequest, encoder: str) -> RecommendRequest:
    """The request without vectors that another encoder made: what has a text beside its vector is encoded again.

    Args:
        request: A checked request.
        encoder: Runtime fingerprint of the encoder that answers.

    Raises:
        RequestError: invalid_request: a behaviour has nothing but such a vector.
    """
    if request.encoder in ("", encoder):
        return request
    history = []
    for number, behaviour in enumerate(request.history):
        if behaviour.vector is not None and behaviour.text is None:
            raise _invalid(
                f"$.history[{number}].vector was made by encoder {shown(request.encoder)}, {encoder} is served: "
                "make it anew with `embed`, or send the text beside it"
            )
        history.append(behaviour if behaviour.vector is None else replace(behaviour, vector=None))
    return replace(request, history=history)


def _check_history(request: RecommendRequest, limits: Limits) -> None:
    if _OF_USERS(request) != _NOT_OF_USERS:
        raise _invalid("session, stated, allow_repeat, variants, mix and exclude_seen need a user_id")
    history = request.history
    if not history:
        raise RequestError(ErrorKind.EMPTY_HISTORY, "history is []: name at least one item or text, or a user_id")
    if len(history) > limits.history:
        raise too_large("history", len(history), "behaviours", "history", limits.history)
    for number, behaviour in enumerate(history):
        if (behaviour.item is None) == (behaviour.text is None and behaviour.vector is None):
            raise _invalid(f"$.history[{number}] is {_parts(behaviour)}")
    if not any(behaviour.weight for behaviour in history):
        raise RequestError(ErrorKind.ZERO_WEIGHTS, f"all {len(history)} weights are 0; at least one must not be")


def _check_user(request: RecommendRequest) -> None:
    """No value is quoted: any of them may name a user."""
    if _OF_HISTORIES(request) != _NOT_OF_HISTORIES:
        raise _invalid("history, exclude_history, on_unknown and encoder go without a user_id; use session instead")
    for place, behaviour in enumerate(request.session):
        if (behaviour.item is None) == (behaviour.text is None) or behaviour.vector is not None:
            raise _invalid(f"$.session[{place}] is not either an item or a text")
        if behaviour.text is not None and not behaviour.text.strip():
            raise _invalid(f"$.session[{place}].text is blank")
    if not all(text.strip() for text in request.stated):
        raise _invalid("a text of $.stated is blank")


def _parts(behaviour: Behaviour) -> str:
    named = [name for name in ("item", "text", "vector") if getattr(behaviour, name) is not None]
    found = " and ".join(named) if named else "without content"
    return f"{found}: give either an item, or a text, or a vector (a vector may have a text beside it)"


def _invalid(what: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, what)
