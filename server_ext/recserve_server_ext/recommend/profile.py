"""Resolves the profile of a request: behaviours with weights, and banned rows."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from recserve_client.contract import Behaviour, ErrorKind, RecommendRequest, RequestError, UsedBehaviour, shown
from recserve_server_ext.batching.request_checks import check_texts
from recserve_server_ext.common.arrays import NO_ROWS, Floats, Ints, Mask, Rows, Vectors
from recserve_server_ext.common.units import MICROSECONDS, ORDINALS_US
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.recorded_history import RecordedHistory, RowLookup
from recserve_server_ext.strategies.base import Profile, mixed

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import RowOf

Origin = Literal["long_term", "session", "stated"]
#: Number of logged behaviours at which stated interests have half of the weight.
STATED_PRIOR: Final = 5.0
#: Ids that an error message names.
_NAMED: Final = 10


def empty_profile() -> Profile:
    """The profile of an unknown user."""
    return Profile(np.empty(0), NO_ROWS, {}, {}, [])


@dataclass(slots=True, eq=False)
class ReportedHistory:
    """The behaviours of a profile as an answer reports them: session, logged (newest first), stated.

    Attributes:
        subjects: [behaviours] item ids and texts.
        is_item: [behaviours] whether the subject is an item.
        origins: [behaviours].
        weights: [behaviours] after mixing; also of items that the catalogue lacks.
    """

    subjects: list[str]
    is_item: Mask
    origins: list[Origin]
    weights: Floats

    def used_behaviours(self, clusters: Ints | None = None) -> list[UsedBehaviour]:
        """The behaviours in the contract's form; with their interest clusters, where the history is split."""
        subjects, weights = self.subjects, self.weights.tolist()
        is_item_throughout = bool(self.is_item.all())
        if is_item_throughout and clusters is None:
            return list(map(UsedBehaviour, weights, self.origins, subjects))
        items: Iterable[str | None] = subjects
        texts: Iterable[str | None] = repeat(None)
        if not is_item_throughout:
            are_items = self.is_item.tolist()
            items = [name if is_item else None for name, is_item in zip(subjects, are_items, strict=True)]
            texts = [None if is_item else name for name, is_item in zip(subjects, are_items, strict=True)]
        numbers: Iterable[int | UnsetType] = repeat(UNSET) if clusters is None else clusters.tolist()
        return list(map(UsedBehaviour, weights, self.origins, items, texts, numbers))


class ResolvedProfile(msgspec.Struct, frozen=True, eq=False):
    """The profile of a request, and what else the request says of the user.

    Attributes:
        profile: The profile.
        history: Its behaviours as an answer reports them; `None` for a history that the request brought.
        banned: Rows that must not be in the slate.
    """

    profile: Profile
    history: ReportedHistory | None
    banned: Rows


def profile_of_history(request: RecommendRequest, rows: Rows, limits: Limits, dim: int) -> ResolvedProfile:
    """The profile of a checked request with a history; its texts are not encoded yet.

    Args:
        request: The request.
        rows: [behaviours] rows of the items, -1 for those that the catalogue lacks, and for texts and vectors.
        limits: Of texts.
        dim: Length of a vector.

    Raises:
        RequestError: unknown_item, empty_history (all items skipped), zero_weights; too_large or invalid_request for
            texts and vectors.
    """
    history = request.history
    weights = [behaviour.weight for behaviour in history]
    profile = Profile(np.array(weights, np.float64), rows, {}, {}, [])
    # Most histories have no text, and a dictionary of each behaviour takes longer than this look.
    has_texts = any(map(attrgetter("text"), history))
    if has_texts:
        profile.comments = _comments(history)
    if has_texts or -1 in rows:
        _resolve_others(profile, request, limits, dim)
        profile.count = int(np.count_nonzero(profile.weights))
        profile.comments = _of_known(profile.comments, profile.rows)
        banned = profile.rows[profile.rows >= 0]
    else:
        profile.count, banned = len(weights) - weights.count(0.0), profile.rows
    return ResolvedProfile(profile, None, banned if request.exclude_history else NO_ROWS)


def profile_of_user(
    request: RecommendRequest,
    recorded: RecordedHistory,
    view: RowLookup,
    limits: Limits,
    now_us: int,
    repeatable: Collection[str] = (),
) -> ResolvedProfile:
    """The profile of a checked request by user id; `RecommendRequest` has the rules of mixing.

    Args:
        request: The request.
        recorded: The user's recorded interactions.
        view: The catalogue, or another row lookup.
        limits: Texts beyond these limits are dropped from the recorded history, oldest first; comments do not count
            then.
        now_us: Time of the request, in microseconds since 1970.
        repeatable: Seen items that may be recommended again.

    Raises:
        RequestError: too_large or invalid_request for texts of the session or stated texts.
    """
    session, stated = request.session, request.stated
    request_texts = [behaviour.text for behaviour in session if behaviour.text is not None] + stated
    check_texts(request_texts, limits, "session and stated")
    rows, seen = recorded.rows_in(view)
    if recorded.has_texts:
        recorded, rows = _within_text_limits(recorded, rows, limits, len(request_texts))
    session_rows = NO_ROWS
    if session or stated:
        session_rows = view.row_of.rows([behaviour.item or "" for behaviour in session])
        profile, history = _joined(request, session_rows, recorded, rows, now_us)
    else:
        profile, history = _recorded_profile(recorded, rows)
    skipped = np.flatnonzero(history.is_item & (profile.rows < 0)).tolist()
    if skipped:
        profile.weights = history.weights.copy()
        profile.weights[skipped] = 0.0
        profile.unknown = [history.subjects[n] for n in skipped]
    profile.comments = _of_known(_comments(session), profile.rows) if request_texts else {}
    if recorded.comments:
        of_log = {len(session) + n: text for n, text in recorded.comments.items()}
        others = len(request_texts) + int(np.count_nonzero(~recorded.is_item))
        profile.comments |= _within_limits(_of_known(of_log, profile.rows), limits, others)
    if not history.is_item.all():
        profile.missing = {n: history.subjects[n] for n in np.flatnonzero(~history.is_item).tolist()}
    profile.count = int(np.count_nonzero(profile.weights))
    if not session and recorded.newest_us >= ORDINALS_US:
        profile.idle_s = max(now_us - recorded.newest_us, 0) / MICROSECONDS
    banned = _banned(seen, session_rows, repeatable, view.row_of) if request.exclude_seen else NO_ROWS
    return ResolvedProfile(profile, history, banned)


def _comments(behaviours: Sequence[Behaviour]) -> dict[int, str]:
    """The texts about items, by position."""
    return {n: one.text for n, one in enumerate(behaviours) if one.item is not None and one.text is not None}


def _of_known(comments: Mapping[int, str], rows: Rows) -> dict[int, str]:
    """The comments on items of the catalogue."""
    return {n: text for n, text in comments.items() if rows[n] >= 0}


def _within_limits(comments: dict[int, str], limits: Limits, texts: int) -> dict[int, str]:
    """The newest comments, as many as fit into the limits of a request that has this many texts."""
    short = {n: text for n, text in comments.items() if text.strip() and len(text.encode()) <= limits.text_bytes}
    return dict(islice(short.items(), max(limits.texts - texts, 0)))


def _within_text_limits(
    recorded: RecordedHistory, rows: Rows, limits: Limits, texts: int
) -> tuple[RecordedHistory, Rows]:
    """The history and its rows without texts beyond the limits of a request, which has this many texts itself."""
    is_kept = np.ones(len(rows), np.bool_)
    for n in np.flatnonzero(~recorded.is_item).tolist():
        if texts >= limits.texts or len(recorded.subjects[n].encode()) > limits.text_bytes:
            is_kept[n] = False
        else:
            texts += 1
    return recorded.take(is_kept), rows[is_kept]


def _recorded_profile(recorded: RecordedHistory, rows: Rows) -> tuple[Profile, ReportedHistory]:
    """The profile of the recorded behaviours alone."""
    n = len(rows)
    profile = Profile(recorded.weights, rows, {}, {}, [], np.zeros(n), recorded.newer, recorded.undecayed_weights)
    profile.time_us = recorded.time_us
    return profile, ReportedHistory(recorded.subjects, recorded.is_item, ["long_term"] * n, recorded.weights)


def _joined(
    request: RecommendRequest, session_rows: Rows, recorded: RecordedHistory, rows: Rows, now_us: int
) -> tuple[Profile, ReportedHistory]:
    """The profile of session, recorded behaviours and stated interests, mixed."""
    session, stated, mix = request.session, request.stated, request.mix
    lengths = len(session), len(rows), len(stated)
    no_session, no_log, no_stated = map(np.zeros, lengths)
    given = np.array([behaviour.weight for behaviour in session], np.float64)
    weights = mixed(np.concatenate([given, no_log]), np.concatenate([no_session, recorded.weights]), mix)
    weights = append_stated_weights(weights, lengths[1], lengths[2])
    is_item = np.array([behaviour.item is not None for behaviour in session], np.bool_)
    names = [behaviour.text if behaviour.item is None else behaviour.item for behaviour in session]
    origins: list[Origin] = [*["session"] * lengths[0], *["long_term"] * lengths[1], *["stated"] * lengths[2]]  # type: ignore[list-item]
    history = ReportedHistory(
        [*(name or "" for name in names), *recorded.subjects, *stated],
        np.concatenate([is_item, recorded.is_item, np.zeros(lengths[2], np.bool_)]),
        origins,
        weights,
    )
    profile = Profile(
        weights,
        np.concatenate([session_rows, rows, np.full(lengths[2], -1, np.int64)]),
        {},
        {},
        [],
        session_weights=np.concatenate([np.maximum(given, 0.0), no_log, no_stated]),
        newer=np.concatenate([no_session, recorded.newer, no_stated]),
        undecayed_weights=np.concatenate([no_session, recorded.undecayed_weights, no_stated]),
        mix=mix,
        time_us=np.concatenate([np.full(lengths[0], now_us), recorded.time_us, np.full(lengths[2], now_us)]),
    )
    return profile, history


def append_stated_weights(weights: Floats, logged: int, stated: int) -> Floats:
    """Append the weights of stated interests, with the share p = n0 / (n0 + n); n = the logged behaviours."""
    if not stated:
        return weights
    mass = float(np.abs(weights).sum())
    share = STATED_PRIOR / (STATED_PRIOR + logged) if mass > 0 else 1.0
    rest = weights / mass * (1.0 - share) if mass > 0 else weights
    return np.concatenate([rest, np.full(stated, share / stated)])


def _banned(seen: Rows, session: Rows, repeatable: Collection[str], row_of: RowOf) -> Rows:
    """Distinct rows of the session and of all seen items that may not be recommended again."""
    banned = seen
    if repeatable:
        banned = np.setdiff1d(banned, row_of.rows(list(repeatable)))
    # Distinct, because every banned row widens the search.
    return np.union1d(banned, session[session >= 0]) if len(session) else banned


def _resolve_others(profile: Profile, request: RecommendRequest, limits: Limits, dim: int) -> None:
    """Resolve behaviours that are no items of the catalogue: vectors, texts and unknown items."""
    skipped: list[int] = []
    for position in np.flatnonzero(profile.rows < 0).tolist():
        behaviour = request.history[position]
        if behaviour.vector is not None:
            profile.vectors[position] = decode_vector(behaviour.vector, dim, f"$.history[{position}].vector")
        elif behaviour.item is None and behaviour.text is not None:
            profile.missing[position] = behaviour.text
        else:
            skipped.append(position)
            profile.unknown.append(behaviour.item or "")
    check_texts([*profile.missing.values(), *profile.comments.values()], limits, "history")
    if not skipped:
        return
    if request.on_unknown == "error":
        named = ", ".join(shown(item_id) for item_id in profile.unknown[:_NAMED])
        more = f" and {len(profile.unknown) - _NAMED} more" if len(profile.unknown) > _NAMED else ""
        raise RequestError(
            ErrorKind.UNKNOWN_ITEM, f'not in the catalogue: {named}{more}; on_unknown="ignore" skips such items'
        )
    profile.weights[skipped] = 0.0
    if request.on_cold == "fallback":
        return
    if len(skipped) == len(request.history):
        raise RequestError(ErrorKind.EMPTY_HISTORY, f"none of the {len(skipped)} items is in the catalogue")
    if not profile.weights.any():
        raise RequestError(ErrorKind.ZERO_WEIGHTS, "all weights of the known behaviours are 0")


def decode_vector(encoded: str, dim: int, path: str) -> Vectors:
    """A unit vector from base64 of `dim` little-endian float32 values; `path` is its JSON path, for messages.

    Raises:
        RequestError: invalid_request: not base64, of another length, not finite or all zero.
    """
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(ErrorKind.INVALID_REQUEST, f"{path} is {shown(encoded)}: not base64") from None
    if len(raw) != 4 * dim:
        raise RequestError(
            ErrorKind.INVALID_REQUEST, f"{path} has {len(raw)} bytes: {4 * dim} are needed ({dim} float32 values)"
        )
    vector = np.frombuffer(raw, "<f4").astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not 1e-30 < norm < 1e30:
        raise RequestError(ErrorKind.INVALID_REQUEST, f"{path} has the length {norm}: it must be finite and not zero")
    return np.asarray(vector / np.float32(norm))
