"""From a request by user id to what an ordinary one has: a history, and what must not be in the slate."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import (
    ErrorKind,
    RecommendForRequest,
    RecommendRequest,
    RequestError,
    UsedBehaviour,
)
from recserve_server_ext.batching.request_checks import check_texts, too_large
from recserve_server_ext.catalogue.view import RowOf
from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.user_histories import Placed, UserPast
from recserve_server_ext.recommend.requests import History

Origin = Literal["long_term", "session", "stated"]
#: Long-term behaviours at which stated interests are half of a history.
STATED_PRIOR: Final = 5.0
_NONE: Final = np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Made:
    """The history of a request by user id, in this order: session, long-term (newest first), stated.

    Attributes:
        subjects: [behaviours] items and texts.
        is_item: [behaviours] which of them are items.
        origins: [behaviours].
        weights: [behaviours] in the mix, also of items that the catalogue lacks.
        counted: [behaviours] weights for item-to-item counts.
        history: For the recommender.
        banned: Rows that must not be in the slate.
    """

    subjects: list[str]
    is_item: Mask
    origins: list[Origin]
    weights: Floats
    counted: Floats
    history: History
    banned: Ints

    @property
    def is_usable(self) -> bool:
        """Whether any behaviour is left."""
        return bool(self.history.weights.any())

    def used(self, interests: Ints | None = None) -> list[UsedBehaviour]:
        """What the answer says of it; with the interest of each behaviour, where they were asked for."""
        names, nothing = self.subjects, repeat(None)
        items: Iterable[str | None] = names
        texts: Iterable[str | None] = nothing
        if not self.is_item.all():
            are_items = self.is_item.tolist()
            items = [name if is_item else None for name, is_item in zip(names, are_items, strict=True)]
            texts = [None if is_item else name for name, is_item in zip(names, are_items, strict=True)]
        numbers: Iterable[int | UnsetType] = repeat(UNSET) if interests is None else interests.tolist()
        return list(map(UsedBehaviour, self.weights.tolist(), self.origins, items, texts, numbers))


def check_user_request(request: RecommendForRequest, limits: Limits) -> None:
    """Check what the types cannot say, and no later step does.

    Raises:
        RequestError: too_large or invalid_request.
    """
    if len(request.exclude) > limits.exclude:
        raise too_large("exclude", len(request.exclude), "ids", "exclude", limits.exclude)
    for place, behaviour in enumerate(request.session):
        if (behaviour.item is None) == (behaviour.text is None) or behaviour.vector is not None:
            raise _invalid(f"$.session[{place}] is not either an item or a text")
        if behaviour.text is not None and not behaviour.text.strip():
            raise _invalid(f"$.session[{place}].text is blank")
    if not all(text.strip() for text in request.stated):
        raise _invalid("a text of $.stated is blank")
    options = request.slate
    if options is not None and options.quotas and request.explore is not None:
        raise _invalid("explore cannot be had with quotas, which it might break; leave one of them out")
    if options is not None and options.diversify and request.interests > 1:
        raise _invalid("diversify and interests both spread a slate; leave one of them out")


def ordinary(request: RecommendForRequest) -> RecommendRequest:
    """What is asked for, apart from the history."""
    return RecommendRequest(
        history=[],
        k=request.k,
        exclude=request.exclude,
        exclude_history=False,
        ef=request.ef,
        fields=request.fields,
        explain=request.explain,
        min_revision=request.min_revision,
        where=request.where,
        slate=request.slate,
        count=request.count,
    )


def made_of(
    request: RecommendForRequest, past: UserPast, view: Placed, limits: Limits, again: Collection[str] = ()
) -> Made:
    """The history of a user, and what must not be in the slate; see `RecommendForRequest` for the rules of mixing.

    Args:
        request: By user id.
        past: What is recorded of the user.
        view: The catalogue, or what else knows its rows.
        limits: Texts beyond these are left out of the long-term history, oldest first.
        again: Seen items that may come again.

    Raises:
        RequestError: too_large or invalid_request (texts of the session, stated ones).
    """
    session, stated = request.session, request.stated
    own_texts = [found.text for found in session if found.text is not None] + stated
    check_texts(own_texts, limits, "session and stated")
    known_rows, seen = past.rows_in(view)
    known = _within(past, known_rows, limits, len(own_texts)) if past.has_texts else _past(past, known_rows)
    used, of_session = known, _NONE
    if session or stated:
        get = view.row_of.get
        of_session = np.array([-1 if found.item is None else get(found.item, -1) for found in session], np.int64)
        used = _joined(request, of_session, known)
    weights = used.weights
    skipped = np.flatnonzero(used.is_item & (used.rows < 0)).tolist()
    if skipped:
        weights = weights.copy()
        weights[skipped] = 0.0
    missing = {n: used.names[n] for n in np.flatnonzero(~used.is_item).tolist()}
    history = History(weights, used.rows, {}, missing, [used.names[n] for n in skipped])
    lengths: list[tuple[Origin, int]] = [
        ("session", len(session)),
        ("long_term", len(known.names)),
        ("stated", len(stated)),
    ]
    origins = [origin for origin, length in lengths for _ in range(length)]
    banned = _banned(seen, of_session, again, view.row_of) if request.exclude_seen else _NONE
    return Made(used.names, used.is_item, origins, used.weights, used.counted, history, banned)


class _Part(NamedTuple):
    """Some behaviours: [behaviours] each."""

    names: list[str]
    is_item: Mask
    weights: Floats
    counted: Floats
    rows: Ints


def _past(past: UserPast, rows: Ints) -> _Part:
    return _Part(past.subjects, past.is_item, past.weights, past.counted, rows)


def _within(past: UserPast, rows: Ints, limits: Limits, taken: int) -> _Part:
    """The long-term behaviours without texts that an ordinary request could not hold; the oldest go."""
    kept = np.ones(len(past.subjects), np.bool_)
    for n in np.flatnonzero(~past.is_item).tolist():
        if taken >= limits.texts or len(past.subjects[n].encode()) > limits.text_bytes:
            kept[n] = False
        else:
            taken += 1
    names = list(compress(past.subjects, kept.tolist()))
    return _Part(names, past.is_item[kept], past.weights[kept], past.counted[kept], rows[kept])


def _joined(request: RecommendForRequest, of_session: Ints, known: _Part) -> _Part:
    """The session, with these rows, the long-term behaviours and the stated interests, in the mix."""
    session, stated = request.session, request.stated
    given = np.array([found.weight for found in session], np.float64)
    weights = mixed(given, known.weights, request.mix)
    counted = mixed(np.maximum(given, 0.0), known.counted, request.mix)
    are_items = np.array([found.item is not None for found in session], np.bool_)
    names = [found.text if found.item is None else found.item for found in session]
    return _Part(
        [*(name or "" for name in names), *known.names, *stated],
        np.concatenate([are_items, known.is_item, np.zeros(len(stated), np.bool_)]),
        stated_on_top(weights, len(known.names), len(stated)),
        np.concatenate([counted, np.zeros(len(stated))]),
        np.concatenate([of_session, known.rows, np.full(len(stated), -1, np.int64)]),
    )


def mixed(session: Floats, known: Floats, mix: float) -> Floats:
    """The weights of the session, then the long-term ones, in the mix."""
    masses = [float(np.abs(part).sum()) for part in (session, known)]
    if not all(mass > 0 for mass in masses):
        return np.concatenate([session, known])
    return np.concatenate([session / masses[0] * mix, known / masses[1] * (1.0 - mix)])


def stated_on_top(weights: Floats, known: int, stated: int) -> Floats:
    """The weights, then those of stated interests: together p = n0 / (n0 + n) of the history, n = long-term ones."""
    if not stated:
        return weights
    mass = float(np.abs(weights).sum())
    part = STATED_PRIOR / (STATED_PRIOR + known) if mass > 0 else 1.0
    rest = weights / mass * (1.0 - part) if mass > 0 else weights
    return np.concatenate([rest, np.full(stated, part / stated)])


def _banned(seen: Ints, session: Ints, again: Collection[str], row_of: RowOf) -> Ints:
    """Rows of everything seen, without what may come again, and of the session."""
    banned = seen
    if again:
        banned = np.setdiff1d(banned, np.array([row_of.get(name, -1) for name in again], np.int64))
    # Each once: a search is the wider, the more must not be found.
    return np.union1d(banned, session[session >= 0]) if len(session) else banned


def _invalid(what: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, what)
