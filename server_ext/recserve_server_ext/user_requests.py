"""From a request by user id to what an ordinary one has: a history, and what must not be in the slate."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import (
    ErrorKind,
    RecommendForRequest,
    RecommendRequest,
    RequestError,
    UsedBehaviour,
)
from recserve_server_ext.catalogue_view import RowOf
from recserve_server_ext.event_cleaning import Mask
from recserve_server_ext.event_columns import Floats, Ints
from recserve_server_ext.history import History, check_texts, too_large
from recserve_server_ext.settings import Limits
from recserve_server_ext.user_histories import Placed, UserPast

Origin = Literal["long_term", "session", "stated"]
#: Long-term behaviours at which stated interests are half of a history.
STATED_PRIOR: Final = 5.0


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
        columns = zip(self.subjects, self.is_item.tolist(), self.origins, self.weights.tolist(), strict=True)
        numbers: Sequence[int | UnsetType] = [UNSET] * len(self.subjects) if interests is None else interests.tolist()
        return [
            UsedBehaviour(weight, origin, name, None, number)
            if is_item
            else UsedBehaviour(weight, origin, None, name, number)
            for (name, is_item, origin, weight), number in zip(columns, numbers, strict=True)
        ]


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
    kept = _within(past, limits, len(own_texts))
    weights, counted = past.weights[kept], past.counted[kept]
    of_session = np.array([found.weight for found in session], np.float64)
    weights = stated_on_top(mixed(of_session, weights, request.mix), len(weights), len(stated))
    counted = mixed(np.maximum(of_session, 0.0), counted, request.mix)
    get = view.row_of.get
    session_rows = [-1 if found.item is None else get(found.item, -1) for found in session]
    rows = np.concatenate([np.array(session_rows, np.int64), known_rows[kept], np.full(len(stated), -1, np.int64)])
    subjects = [found.text if found.item is None else found.item for found in session]
    subjects += past.subjects if kept.all() else [past.subjects[n] for n in np.flatnonzero(kept)]
    names = [name or "" for name in subjects] + stated
    is_item = np.concatenate(
        [np.array([found.item is not None for found in session], np.bool_), past.is_item[kept], [False] * len(stated)]
    ).astype(np.bool_)
    lengths: list[tuple[Origin, int]] = [
        ("session", len(session)),
        ("long_term", int(kept.sum())),
        ("stated", len(stated)),
    ]
    origins = [origin for origin, length in lengths for _ in range(length)]
    skipped = np.flatnonzero(is_item & (rows < 0)).tolist()
    used = weights.copy()
    used[skipped] = 0.0
    missing = {n: names[n] for n in np.flatnonzero(~is_item).tolist()}
    history = History(used, rows, {}, missing, [names[n] for n in skipped])
    banned = _banned(request, seen, rows, again, view.row_of)
    counts = np.concatenate([counted, np.zeros(len(stated))])
    return Made(names, is_item, origins, weights, counts, history, banned)


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


def _banned(request: RecommendForRequest, seen: Ints, rows: Ints, again: Collection[str], row_of: RowOf) -> Ints:
    """Rows of everything seen, and of the history; not of what may come again, unless it is in the session."""
    if not request.exclude_seen:
        return np.empty(0, np.int64)
    banned = np.concatenate([seen, rows])
    if again:
        places = np.array([row_of.get(name, -1) for name in again], np.int64)
        session = rows[: len(request.session)]
        banned = np.concatenate([np.setdiff1d(banned, places), session])
    return banned[banned >= 0]


def _within(past: UserPast, limits: Limits, taken: int) -> Mask:
    """[behaviours] Without texts that an ordinary request could not hold; newest first, so the oldest go."""
    kept = np.ones(len(past.subjects), np.bool_)
    for n in np.flatnonzero(~past.is_item).tolist():
        if taken >= limits.texts or len(past.subjects[n].encode()) > limits.text_bytes:
            kept[n] = False
        else:
            taken += 1
    return kept


def _invalid(what: str) -> RequestError:
    return RequestError(ErrorKind.INVALID_REQUEST, what)
