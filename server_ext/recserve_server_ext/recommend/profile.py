"""From a checked request, and what is recorded of the user, to a profile: behaviours with weights, and banned rows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import compress, repeat
from typing import Final, Literal, NamedTuple

import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import ErrorKind, RecommendRequest, RequestError, UsedBehaviour, shown
from recserve_server_ext.batching.request_checks import check_texts
from recserve_server_ext.catalogue.view import RowOf, View
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows, Vectors
from recserve_server_ext.common.units import MICROSECONDS
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.user_histories import Placed, UserPast
from recserve_server_ext.strategies.base import Profile, mixed

Origin = Literal["long_term", "session", "stated"]
#: Long-term behaviours at which stated interests are half of a history.
STATED_PRIOR: Final = 5.0
_NO_ROWS: Final = np.empty(0, np.int64)
_NO_WEIGHTS: Final = np.empty(0)
#: Ids that a refusal names.
_LISTED: Final = 10


def nobody() -> Profile:
    """The profile of somebody of whom nothing is known."""
    return Profile(_NO_WEIGHTS, _NO_ROWS, {}, {}, [])


@dataclass(slots=True, eq=False)
class Behaviours:
    """What an answer says of the behaviours of a profile, in its order: session, long-term (newest first), stated.

    Attributes:
        subjects: [behaviours] items and texts.
        is_item: [behaviours] which of them are items.
        origins: [behaviours].
        weights: [behaviours] in the mix, also of items that the catalogue lacks.
    """

    subjects: list[str]
    is_item: Mask
    origins: list[Origin]
    weights: Floats

    def used(self, interests: Ints | None = None) -> list[UsedBehaviour]:
        """What the answer says of it; with the interest cluster of each behaviour, where they were asked for."""
        names, nothing = self.subjects, repeat(None)
        items: Iterable[str | None] = names
        texts: Iterable[str | None] = nothing
        if not self.is_item.all():
            are_items = self.is_item.tolist()
            items = [name if is_item else None for name, is_item in zip(names, are_items, strict=True)]
            texts = [None if is_item else name for name, is_item in zip(names, are_items, strict=True)]
        numbers: Iterable[int | UnsetType] = repeat(UNSET) if interests is None else interests.tolist()
        return list(map(UsedBehaviour, self.weights.tolist(), self.origins, items, texts, numbers))


class Profiled(NamedTuple):
    """A profile, and what else a request says of the user.

    Attributes:
        profile: Its behaviours as they count.
        behaviours: The same as an answer tells of them; `None` for a history that the request brought.
        banned: Rows that must not be in the slate.
    """

    profile: Profile
    behaviours: Behaviours | None
    banned: Rows


def profile_of_history(request: RecommendRequest, view: View, limits: Limits) -> Profiled:
    """The profile of a request with a history; its texts are left as missing.

    Args:
        request: A checked one.
        view: The catalogue.
        limits: Of texts.

    Raises:
        RequestError: unknown_item, empty_history (all skipped), zero_weights, too_large or invalid_request (texts,
            vectors).
    """
    history, get = request.history, view.row_of.get
    rows = np.array([-1 if found.item is None else get(found.item, -1) for found in history], np.int64)
    weights = np.array([found.weight for found in history], np.float64)
    profile = Profile(weights, rows, {}, {}, [], count=1)
    if rows.min() < 0:
        _resolve_others(profile, request, limits, view.text.dim)
    profile.count = int(np.count_nonzero(weights))
    return Profiled(profile, None, rows[rows >= 0] if request.exclude_history else _NO_ROWS)


def profile_of_user(
    request: RecommendRequest, past: UserPast, view: Placed, limits: Limits, now_us: int, again: Collection[str] = ()
) -> Profiled:
    """The profile of a request by user id; see `RecommendRequest` for the rules of mixing.

    Args:
        request: A checked one.
        past: What is recorded of the user.
        view: The catalogue, or what else knows its rows.
        limits: Texts beyond these are left out of the long-term history, oldest first.
        now_us: When it is asked for, in microseconds since 1970.
        again: Seen items that may come again.

    Raises:
        RequestError: too_large or invalid_request (texts of the session, stated ones).
    """
    session, stated = request.session, request.stated
    own_texts = [found.text for found in session if found.text is not None] + stated
    check_texts(own_texts, limits, "session and stated")
    known_rows, seen = past.rows_in(view)
    known = _Known(past.subjects, past.is_item, past.weights, past.newer, past.turned, known_rows)
    if past.has_texts:
        known = _within(known, limits, len(own_texts))
    used, of_session = _long_term(known), _NO_ROWS
    if session or stated:
        get = view.row_of.get
        of_session = np.array([-1 if found.item is None else get(found.item, -1) for found in session], np.int64)
        used = _joined(request, of_session, known)
    profile, behaviours = used
    skipped = np.flatnonzero(behaviours.is_item & (profile.rows < 0)).tolist()
    if skipped:
        profile.weights = behaviours.weights.copy()
        profile.weights[skipped] = 0.0
        profile.unknown = [behaviours.subjects[n] for n in skipped]
    if not behaviours.is_item.all():
        profile.missing = {n: behaviours.subjects[n] for n in np.flatnonzero(~behaviours.is_item).tolist()}
    profile.count = int(np.count_nonzero(profile.weights))
    profile.idle_s = 0.0 if session else max(now_us - past.newest_us, 0) / MICROSECONDS
    banned = _banned(seen, of_session, again, view.row_of) if request.exclude_seen else _NO_ROWS
    return Profiled(profile, behaviours, banned)


class _Known(NamedTuple):
    """What the log says of a user, newest first: [behaviours] each."""

    names: list[str]
    is_item: Mask
    weights: Floats
    newer: Floats
    turned: Floats
    rows: Rows


def _within(known: _Known, limits: Limits, taken: int) -> _Known:
    """The behaviours without texts that an ordinary request could not hold; the oldest go."""
    kept = np.ones(len(known.names), np.bool_)
    for n in np.flatnonzero(~known.is_item).tolist():
        if taken >= limits.texts or len(known.names[n].encode()) > limits.text_bytes:
            kept[n] = False
        else:
            taken += 1
    names = list(compress(known.names, kept.tolist()))
    return _Known(
        names, known.is_item[kept], known.weights[kept], known.newer[kept], known.turned[kept], known.rows[kept]
    )


def _long_term(known: _Known) -> tuple[Profile, Behaviours]:
    """The long-term behaviours alone."""
    n = len(known.names)
    profile = Profile(known.weights, known.rows, {}, {}, [], np.zeros(n), known.newer, known.turned)
    return profile, Behaviours(known.names, known.is_item, ["long_term"] * n, known.weights)


def _joined(request: RecommendRequest, of_session: Rows, known: _Known) -> tuple[Profile, Behaviours]:
    """The session, with these rows, the long-term behaviours and the stated interests, in the mix."""
    session, stated = request.session, request.stated
    lengths = len(session), len(known.names), len(stated)

    def placed(*parts: Floats) -> Floats:
        """Values of the three, zeros for those that have none."""
        return np.concatenate([of if len(of) else np.zeros(n) for of, n in zip(parts, lengths, strict=True)])

    given = np.array([found.weight for found in session], np.float64)
    weights = mixed(
        placed(given, _NO_WEIGHTS, _NO_WEIGHTS), placed(_NO_WEIGHTS, known.weights, _NO_WEIGHTS), request.mix
    )
    weights = stated_on_top(weights[: lengths[0] + lengths[1]], lengths[1], lengths[2])
    are_items = np.array([found.item is not None for found in session], np.bool_)
    names = [found.text if found.item is None else found.item for found in session]
    origins: list[Origin] = [*["session"] * lengths[0], *["long_term"] * lengths[1], *["stated"] * lengths[2]]  # type: ignore[list-item]
    behaviours = Behaviours(
        [*(name or "" for name in names), *known.names, *stated],
        np.concatenate([are_items, known.is_item, np.zeros(lengths[2], np.bool_)]),
        origins,
        weights,
    )
    rows = np.concatenate([of_session, known.rows, np.full(lengths[2], -1, np.int64)])
    profile = Profile(
        weights, rows, {}, {}, [], placed(np.maximum(given, 0.0), _NO_WEIGHTS, _NO_WEIGHTS),
        placed(_NO_WEIGHTS, known.newer, _NO_WEIGHTS), placed(_NO_WEIGHTS, known.turned, _NO_WEIGHTS), request.mix,
    )  # fmt: skip
    return profile, behaviours


def stated_on_top(weights: Floats, known: int, stated: int) -> Floats:
    """The weights, then those of stated interests: together p = n0 / (n0 + n) of the history, n = long-term ones."""
    if not stated:
        return weights
    mass = float(np.abs(weights).sum())
    part = STATED_PRIOR / (STATED_PRIOR + known) if mass > 0 else 1.0
    rest = weights / mass * (1.0 - part) if mass > 0 else weights
    return np.concatenate([rest, np.full(stated, part / stated)])


def _banned(seen: Rows, session: Rows, again: Collection[str], row_of: RowOf) -> Rows:
    """Rows of everything seen, without what may come again, and of the session."""
    banned = seen
    if again:
        banned = np.setdiff1d(banned, np.array([row_of.get(name, -1) for name in again], np.int64))
    # Each once: a search is the wider, the more must not be found.
    return np.union1d(banned, session[session >= 0]) if len(session) else banned


def _resolve_others(profile: Profile, request: RecommendRequest, limits: Limits, dim: int) -> None:
    """What is no item of the catalogue: vectors, texts, and items that it lacks."""
    skipped: list[int] = []
    for position in np.flatnonzero(profile.rows < 0).tolist():
        behaviour = request.history[position]
        if behaviour.vector is not None:
            profile.vectors[position] = decode_vector(behaviour.vector, dim, f"$.history[{position}].vector")
        elif behaviour.text is not None:
            profile.missing[position] = behaviour.text
        else:
            skipped.append(position)
            profile.unknown.append(behaviour.item or "")
    check_texts(list(profile.missing.values()), limits, "history")
    if not skipped:
        return
    if request.on_unknown == "error":
        listed = ", ".join(shown(name) for name in profile.unknown[:_LISTED])
        more = f" and {len(profile.unknown) - _LISTED} more" if len(profile.unknown) > _LISTED else ""
        raise RequestError(
            ErrorKind.UNKNOWN_ITEM, f'not in the catalogue: {listed}{more}; on_unknown="ignore" skips such items'
        )
    profile.weights[skipped] = 0.0
    if request.on_cold == "fallback":
        return
    if len(skipped) == len(request.history):
        raise RequestError(ErrorKind.EMPTY_HISTORY, f"none of the {len(skipped)} items is in the catalogue")
    if not profile.weights.any():
        raise RequestError(ErrorKind.ZERO_WEIGHTS, "all weights of the known behaviours are 0")


def decode_vector(encoded: str, dim: int, place: str) -> Vectors:
    """A unit vector from base64 of `dim` little-endian float32 values.

    Raises:
        RequestError: Not base64, of another length, not finite or all zero.
    """
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(ErrorKind.INVALID_REQUEST, f"{place} is {shown(encoded)}: not base64") from None
    if len(raw) != 4 * dim:
        raise RequestError(
            ErrorKind.INVALID_REQUEST, f"{place} has {len(raw)} bytes: {4 * dim} are needed ({dim} float32 values)"
        )
    vector = np.frombuffer(raw, "<f4").astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not 1e-30 < norm < 1e30:
        raise RequestError(ErrorKind.INVALID_REQUEST, f"{place} has the length {norm}: it must be finite and not zero")
    return np.asarray(vector / np.float32(norm))
