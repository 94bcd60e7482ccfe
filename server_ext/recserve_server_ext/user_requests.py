"""From a request by user id to an ordinary one: the history of the user, mixed with the session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from recserve_client.contract import (
    Behaviour,
    ErrorKind,
    RecommendForRequest,
    RecommendRequest,
    RequestError,
    UsedBehaviour,
)
from recserve_server_ext.history import too_large
from recserve_server_ext.settings import Limits
from recserve_server_ext.user_histories import UserPast

Origin = Literal["long_term", "session"]


class Translated(NamedTuple):
    """A request by user id as an ordinary one.

    Attributes:
        request: None where there is no history.
        history: What it was made from; in the order of the request's history.
        banned: Items that must not be in the slate, whatever it is made from.
    """

    request: RecommendRequest | None
    history: list[UsedBehaviour]
    banned: list[str]


def check_user_request(request: RecommendForRequest, limits: Limits) -> None:
    """Check what the types cannot say, and no later step does.

    Raises:
        RequestError: too_large or invalid_request.
    """
    if len(request.exclude) > limits.exclude:
        raise too_large("exclude", len(request.exclude), "ids", "exclude", limits.exclude)
    for place, behaviour in enumerate(request.session):
        if (behaviour.item is None) == (behaviour.text is None) or behaviour.vector is not None:
            what = f"$.session[{place}] is not either an item or a text"
            raise RequestError(ErrorKind.INVALID_REQUEST, what)
        if behaviour.text is not None and not behaviour.text.strip():
            raise RequestError(ErrorKind.INVALID_REQUEST, f"$.session[{place}].text is blank")


def translated(request: RecommendForRequest, past: UserPast, limits: Limits) -> Translated:
    """The ordinary request; see `RecommendForRequest` for the rule of mixing.

    Args:
        request: By user id.
        past: What is recorded of the user.
        limits: Texts beyond these are left out of the long-term history, oldest first.
    """
    known = _within(past.behaviours, limits, len([found for found in request.session if found.text is not None]))
    history = mixed(request.session, known, request.mix)
    banned = list(request.exclude)
    if request.exclude_seen:
        banned += past.seen
        banned += [found.item for found in request.session if found.item is not None]
    if not any(used.weight for used in history):
        return Translated(None, history, banned)
    ordinary = RecommendRequest(
        history=[Behaviour(item=used.item, text=used.text, weight=used.weight) for used in history],
        k=request.k,
        exclude=banned,
        exclude_history=request.exclude_seen,
        fields=request.fields,
        explain=request.explain,
        on_unknown="ignore",
    )
    return Translated(ordinary, history, banned)


def mixed(session: Sequence[Behaviour], known: Sequence[Behaviour], mix: float) -> list[UsedBehaviour]:
    """The behaviours of the session, then the long-term ones, with their weights in the mix."""
    mass_session, mass_known = (sum(abs(found.weight) for found in part) for part in (session, known))
    if not (mass_session > 0 and mass_known > 0):
        mass_session = mass_known = 1.0
        of_session = of_known = 1.0
    else:
        of_session, of_known = mix, 1.0 - mix
    return [
        *(_used(found, of_session, mass_session, "session") for found in session),
        *(_used(found, of_known, mass_known, "long_term") for found in known),
    ]


def _used(behaviour: Behaviour, part: float, mass: float, origin: Origin) -> UsedBehaviour:
    # In this order: part / mass would be infinite where all weights are tiny.
    return UsedBehaviour(behaviour.weight / mass * part, origin, behaviour.item, behaviour.text)


def _within(behaviours: list[Behaviour], limits: Limits, taken: int) -> list[Behaviour]:
    """Without texts that an ordinary request could not hold; newest first, so the oldest go."""
    kept: list[Behaviour] = []
    for behaviour in behaviours:
        if behaviour.text is not None:
            if taken >= limits.texts or len(behaviour.text.encode()) > limits.text_bytes:
                continue
            taken += 1
        kept.append(behaviour)
    return kept
