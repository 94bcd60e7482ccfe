"""What a server would know if a part of a log were all there is: the catalogue, the counts and what was trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import sparse

from recserve_export.errors import TrainingError
from recserve_export.training.base import Learned, Trainer, TrainingLog, Work, check_trainable, training_log
from recserve_export.training.memory import in_memory
from recserve_server_ext.attributes.view import LiveFilters
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors
from recserve_server_ext.config.counts import CountSettings
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.counts.counts import Counts, LogColumns, counts_of
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.features import select
from recserve_server_ext.history.recorded_history import RecordedHistory, recorded_histories
from recserve_server_ext.history.user_histories import WINDOW
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.strategies.base import Data
from recserve_server_ext.strategies.parts.counts_view import CountsView


class Past:
    """The data of a server that knows some interactions, and nothing else.

    Attributes:
        columns: The interactions.
        vectors: [items, dim] text vectors of the subjects of `columns`.
        seconds: Duration of each training.
    """

    def __init__(
        self,
        columns: InteractionColumns,
        vectors: Vectors,
        rules: HistoryRules,
        trainers: Mapping[str, Trainer],
        *,
        available: Mask | None = None,
        trains: bool = True,
        before: Mapping[str, Any] | None = None,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """
        Args:
            columns: The interactions.
            vectors: [items, dim] text vectors of the subjects of `columns`.
            rules: How interactions become weights.
            trainers: Trainings by name, for what strategies need.
            available: [items] that may be recommended; `None` for all.
            trains: Whether it learns what strategies need; otherwise it serves as a home that was never trained.
            before: States of trainings of a part of these interactions, by name; see `Work.before`.
            settings: Settings of trainings, by name.
        """
        self._settings = settings or {}
        self._before = before or {}
        self.columns = columns
        self.vectors = vectors
        self.rules = rules
        self._trainers = trainers
        self._available = available
        self._trains = trains
        self._learned: dict[str, Learned | None] = {}
        self._data: dict[frozenset[str], Data] = {}
        self.seconds: dict[str, float] = {}

    def data(self, trainings: frozenset[str] = frozenset()) -> Data:
        """The catalogue and the counts, and what trainings learned from the interactions.

        A training that finds nothing to learn from leaves its strategies without what they need.
        """
        trainings = trainings if self._trains else frozenset()
        found = self._data.get(trainings)
        if found is None:
            vectors, ids = self.vectors, self.columns.subjects
            learned = {name: of for name in sorted(trainings) if (of := self.learned(name)) is not None}
            view = view_over(vectors, ExactEngine(vectors), ids, self._available, *in_memory(learned, vectors, ids))
            found = self._data[trainings] = Data(view, LiveFilters(view).of(view), CountsView(self._counts, view))
        return found

    def histories(self, users: Ints) -> list[RecordedHistory]:
        """[users] the histories of some users, ascending, as the server reads them."""
        return histories_of(of_users(self.columns, users), self.rules)

    def learned(self, name: str) -> Learned | None:
        """What a training learned from the interactions; `None` where there is nothing to learn from."""
        if name not in self._learned:
            start = time.perf_counter()
            try:
                check_trainable(self._log)
                trainer = self._trainers[name]
                work = Work(before=self._before.get(name))
                settings = trainer.Settings(**self._settings.get(name, {}))
                self._learned[name] = trainer.work(self._log, self.vectors, settings, work)
            except TrainingError:
                self._learned[name] = None
            self.seconds[name] = time.perf_counter() - start
        return self._learned[name]

    @cached_property
    def _log(self) -> TrainingLog:
        return training_log(self.columns, self.rules)

    @cached_property
    def _counts(self) -> Counts:
        """What the server counts of the log: by time, of the types that count."""
        columns = self.columns
        order = np.argsort(columns.time_us, kind="stable")
        order = order[of_types(columns, counted_types(columns, self.rules))[order]]
        log = LogColumns(columns.user[order], columns.subject[order], columns.time_us[order], columns.subjects, {})
        return counts_of(log, int(columns.time_us.max()), CountSettings())


def counted_types(columns: InteractionColumns, rules: HistoryRules) -> tuple[str, ...]:
    """Types of interactions that count for everybody."""
    return tuple(name for name in columns.types if rules.base.get(name, 0.0) > 0)


def histories_of(columns: InteractionColumns, rules: HistoryRules) -> list[RecordedHistory]:
    """The history of each user of some interactions, as the server reads it."""
    seen, ids = pair_matrix(columns.user, columns.subject, (columns.users, len(columns.subjects))), columns.subjects
    named: list[Sequence[str]] = [
        [ids[item] for item in seen.indices[start:end].tolist()] for start, end in pairwise(seen.indptr)
    ]
    return recorded_histories(newest(columns), named, rules)


def histories_at(
    columns: InteractionColumns, users: Ints, times_us: Ints, rules: HistoryRules
) -> list[RecordedHistory]:
    """[users] the history of each user before a moment, as the server reads it; a user may stand there many times."""
    places, seen, offsets = list[Ints](), list[Sequence[str]](), [0]
    for user, time_us in zip(users.tolist(), times_us.tolist(), strict=True):
        own = np.arange(columns.offsets[user], columns.offsets[user + 1])
        own = own[columns.time_us[own] < time_us]
        seen.append([columns.subjects[item] for item in np.unique(columns.subject[own]).tolist()])
        places.append(own[np.argsort(-columns.time_us[own], kind="stable")][:WINDOW])
        offsets.append(offsets[-1] + len(places[-1]))
    at = np.concatenate(places)
    fields = ("time_us", "type", "subject", "value", "duration_s", "price", "quantity")
    arrays: Mapping[str, Any] = {name: getattr(columns, name)[at] for name in fields}
    return recorded_histories(replace(columns, **arrays, offsets=np.array(offsets)), seen, rules)


def newest(columns: InteractionColumns) -> InteractionColumns:
    """The interactions of each user that a history is made from."""
    return select(columns, np.flatnonzero(later_of_user(columns, np.arange(len(columns.time_us))) < WINDOW))


def of_users(columns: InteractionColumns, users: Ints) -> InteractionColumns:
    """The interactions of some users (ascending) as if there were no others."""
    wanted = np.zeros(columns.users, np.bool_)
    wanted[users] = True
    chosen = select(columns, np.flatnonzero(wanted[columns.user]))
    lengths = np.diff(chosen.offsets)[users]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return replace(chosen, offsets=offsets)


def later_of_user(columns: InteractionColumns, ties: Floats | Ints) -> Ints:
    """[interactions] How many interactions of the same user come later, where `ties` order those of the same time."""
    order = np.lexsort([ties, columns.time_us, columns.user])
    later = np.empty(len(order), np.int64)
    later[order] = np.repeat(columns.offsets[1:], np.diff(columns.offsets)) - 1 - np.arange(len(order))
    return later


def pair_matrix(rows: Ints, columns: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    """Sparse [rows, columns] bool: true at these pairs, of which some may be equal."""
    row, column = np.divmod(np.unique(rows * shape[1] + columns), shape[1])
    return sparse.csr_array((np.ones(len(row), np.bool_), (row, column)), shape)
