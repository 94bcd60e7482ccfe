"""The recorded history of a user: weighted behaviours and seen items, and their rows in a catalogue."""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, compress, pairwise, repeat
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.weights import WeightedInteractions, weigh
from recserve_server_ext.interactions.columns import InteractionColumns, among

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import RowOf

#: Largest weight of a behaviour; only ratios within a history matter.
_MAX_WEIGHT: Final = 1e6
#: Characters of a comment that take as much of the cache as a behaviour.
_CHARACTERS: Final = 100
_NO_COMMENTS: Final[Mapping[int, str]] = {}


class RowLookup(Protocol):
    """Anything that knows the rows of items, such as a catalogue view."""

    @property
    def row_of(self) -> RowOf:
        """Item id -> row."""
        ...


@dataclass(slots=True, eq=False)
class RecordedHistory:
    """A user's recorded behaviours and seen items; immutable.

    Attributes:
        subjects: [behaviours] item ids and texts, newest first.
        is_item: [behaviours] whether the subject is an item.
        weights: [behaviours] weights by the history rules.
        newer: [behaviours] number of the user's interactions that are newer.
        undecayed_weights: [behaviours] weights before decay by age; see the function `undecayed_weights`.
        time_us: [behaviours] microseconds since 1970.
        seen: Seen items that are not among the behaviours.
        comments: Texts about items that have no rating beside them, by position of the behaviour.
        has_texts: Whether any behaviour is a text.
        newest_us: Time of the newest behaviour, in microseconds since 1970; 0 for an empty history.
    """

    subjects: list[str]
    is_item: Mask
    weights: Floats
    newer: Floats
    undecayed_weights: Floats
    time_us: Ints
    seen: list[str]
    newest_us: int = 0
    comments: Mapping[int, str] = field(default_factory=dict)
    has_texts: bool = field(init=False)
    _rows: tuple[weakref.ref[RowLookup], Ints, Ints] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.has_texts = bool(np.count_nonzero(self.is_item) < len(self.is_item))

    def take(self, is_kept: Mask) -> RecordedHistory:
        """The history without some of its behaviours."""
        return RecordedHistory(
            list(compress(self.subjects, is_kept.tolist())),
            self.is_item[is_kept],
            self.weights[is_kept],
            self.newer[is_kept],
            self.undecayed_weights[is_kept],
            self.time_us[is_kept],
            self.seen,
            self.newest_us,
            among(self.comments, np.flatnonzero(is_kept)),
        )

    @property
    def size(self) -> int:
        """Number of behaviours and seen items; some characters of a comment count as one."""
        return len(self.subjects) + len(self.seen) + sum(map(len, self.comments.values())) // _CHARACTERS

    def rows_in(self, view: RowLookup) -> tuple[Ints, Ints]:
        """Rows of the behaviours, and rows of all seen items; cached for the last view.

        Returns:
            [behaviours] rows, -1 for texts and items that the catalogue lacks; and the distinct rows of all items that
            the user has seen, those of the behaviours included, ascending.
        """
        if not self._is_found_in(view):
            find_rows([self], view)
        assert self._rows is not None
        return self._rows[1], self._rows[2]

    def _is_found_in(self, view: RowLookup) -> bool:
        # A weak reference: a view holds a snapshot.
        return self._rows is not None and self._rows[0]() is view


def find_rows(histories: Iterable[RecordedHistory], view: RowLookup) -> None:
    """Look up at once what `rows_in` says of the histories that do not know it for this view."""
    missing = [history for history in histories if not history._is_found_in(view)]
    names = list(chain.from_iterable(chain(history.subjects, history.seen) for history in missing))
    rows = view.row_of.rows(names)
    lengths = [len(history.subjects) + len(history.seen) for history in missing]
    starts = [0, *accumulate(lengths)]
    for start, history in zip(starts, missing, strict=False):
        if history.has_texts:
            rows[start : start + len(history.subjects)][~history.is_item] = -1
    # The distinct rows of each history, ascending, by one sort for all of them.
    stride = int(rows.max(initial=0)) + 1
    keys = np.sort((np.repeat(np.arange(len(missing)), lengths) * stride + rows)[rows >= 0])
    keys = keys[np.append(True, keys[1:] != keys[:-1])[: len(keys)]]
    bounds = np.searchsorted(keys, np.arange(len(missing) + 1) * stride).tolist()
    seen = keys % stride
    ref = weakref.ref(view)
    for start, (first, last), history in zip(starts, pairwise(bounds), missing, strict=False):
        history._rows = ref, rows[start : start + len(history.subjects)].copy(), seen[first:last].copy()


def recorded_histories(
    columns: InteractionColumns, seen: Sequence[Collection[str]], rules: HistoryRules
) -> list[RecordedHistory]:
    """The history of each user, in the order of the columns.

    Args:
        columns: The newest interactions of each user, newest first, perhaps with comments.
        seen: [users] all other items that each user interacted with; may name some of these, too.
        rules: Rules by which interactions become weights.

    Raises:
        ConfigError: The rules need fitted statistics and have none.
    """
    weighted = weigh(columns, rules)
    weights, newer, undecayed = weighted.weight, weighted.newer.astype(np.float64), undecayed_weights(weighted)
    codes = columns.subject[weighted.index]
    subjects = list(map(columns.subjects.__getitem__, codes.tolist()))
    is_item = columns.is_item[codes]
    # Both are rarely so: one check for all users costs less than one for each.
    any_texts, any_too_heavy = not is_item.all(), float(np.abs(weights).max(initial=0.0)) > _MAX_WEIGHT
    times = columns.time_us[weighted.index]
    comments = _unrated_comments(columns, weighted, rules) if columns.comments else _NO_COMMENTS
    histories = []
    of_users = zip(_newest_us(times, weighted.offsets), seen, _left_out(columns, weighted), strict=False)
    for (start, end), (newest_us, user_seen, user_left) in zip(
        pairwise(weighted.offsets.tolist()), of_users, strict=True
    ):
        own, own_is_item = subjects[start:end], is_item[start:end].copy()
        others: list[str] = []
        if user_seen or user_left:
            items = set(compress(own, own_is_item.tolist()) if any_texts else own)
            others = [item for item in dict.fromkeys(chain(user_left, user_seen)) if item not in items]
        own_weights = _bounded(weights[start:end]) if any_too_heavy else weights[start:end].copy()
        own_past = newer[start:end].copy(), undecayed[start:end].copy()
        own_times = times[start:end].copy()
        own_comments = among(comments, np.arange(start, end)) if comments else _NO_COMMENTS
        histories.append(
            RecordedHistory(own, own_is_item, own_weights, *own_past, own_times, others, newest_us, own_comments)
        )
    return histories


def _newest_us(times: Ints, offsets: Ints) -> list[int]:
    """The newest time of each user; 0 without any."""
    firsts, newest = offsets[:-1], np.zeros(len(offsets) - 1, np.int64)
    is_any = firsts < offsets[1:]
    if len(times):
        newest[is_any] = np.maximum.reduceat(times, firsts[is_any])
    found: list[int] = newest.tolist()
    return found


def _unrated_comments(
    columns: InteractionColumns, weighted: WeightedInteractions, rules: HistoryRules
) -> dict[int, str]:
    """The comments that have no rating beside them, by position among the weighted interactions."""
    index = weighted.index
    unrated = np.flatnonzero(~of_types(columns, rules.rating.types)[index])
    return {int(n): columns.comments[at] for n in unrated if (at := int(index[n])) in columns.comments}


def _left_out(columns: InteractionColumns, weighted: WeightedInteractions) -> Iterable[list[str]]:
    """The items of each user's interactions that did not become behaviours."""
    if len(weighted.index) == len(columns.time_us):
        return repeat([])
    left: list[list[str]] = [[] for _ in range(columns.users)]
    is_left = columns.is_item[columns.subject]
    is_left[weighted.index] = False
    for place in np.flatnonzero(is_left).tolist():
        left[columns.user[place]].append(columns.subjects[columns.subject[place]])
    return left


def undecayed_weights(weighted: WeightedInteractions) -> Floats:
    """[kept] weight of each interaction before decay by age: the factor of repeats.

    It is 0 for interaction types without a positive base weight. Ratings do not matter: item-to-item counts know which
    items users had, not how they liked them.
    """
    weights: Floats = weighted.factors["repeats"].copy()
    weights[weighted.factors["base"] <= 0] = 0.0
    return weights


def _bounded(weights: Floats) -> Floats:
    """Weights within the bound of requests, with the same ratios."""
    heaviest = float(np.abs(weights).max(initial=0.0))
    bounded: Floats = weights.copy() if heaviest <= _MAX_WEIGHT else weights * (1.0 / heaviest)
    return bounded


#: The history of an unknown user.
EMPTY_HISTORY: Final = RecordedHistory(
    [], np.empty(0, np.bool_), np.empty(0), np.empty(0), np.empty(0), np.empty(0, np.int64), []
)
