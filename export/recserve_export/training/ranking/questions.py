"""What the ranker learns from: parts of the log that came after what its sources know, and their candidates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from recserve_client.contract import RecommendRequest
from recserve_export.training.base import Trainer, TrainingLog
from recserve_export.training.ranking.answers import Answers, inverse_weights
from recserve_export.training.ranking.past import Past, counted_types, histories_at
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors
from recserve_server_ext.config.server import Limits
from recserve_server_ext.history.cleaning import of_types
from recserve_server_ext.history.features import select
from recserve_server_ext.history.recorded_history import RecordedHistory
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.recommend.profile import profile_of_user
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.strategies.base import Data, Query
from recserve_server_ext.strategies.parts.ranking import CandidateSources, feature_names
from recserve_server_ext.strategies.parts.scatter import Scatter
from recserve_server_ext.strategies.ranker import PreparedOptions

#: Users whose candidates are made at once.
_AT_ONCE: Final = 256
#: Share of the interactions after each cut in time.
_STEP: Final = 0.1


@dataclass(frozen=True, eq=False)
class Question:
    """What users turned to after a part of the log.

    Attributes:
        past: The part.
        users: Users with a history and a target, ascending.
        target_user: [targets] the user of each target.
        target_item: [targets] the item.
        asked_us: When all users ask, in microseconds since 1970; `None` where each asks right after the last known
            interaction.
        answers: What users were shown and clicked between the part and the next one; `None` where that is not known.
    """

    past: Past
    users: Ints
    target_user: Ints
    target_item: Ints
    asked_us: int | None = None
    answers: Answers | None = None


class Lists(NamedTuple):
    """Candidates with their features, a list for each user.

    Attributes:
        features: [candidates, features].
        labels: [candidates] whether the user turned to it.
        lengths: [lists] candidates of each.
        is_visit: [candidates] whether the user asked right after a behaviour.
        weight: [candidates] weight of each, by the inverse of its propensity; 1 where nothing was shown.
    """

    features: Floats
    labels: Ints
    lengths: Ints
    is_visit: Mask
    weight: Floats

    def take(self, first: int, end: int) -> Lists:
        """Some of the lists."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        of = slice(int(ends[first]), int(ends[end]))
        return Lists(self.features[of], self.labels[of], self.lengths[first:end], self.is_visit[of], self.weight[of])


def joined(lists: Iterable[Lists]) -> Lists | None:
    """All lists, one after the other; `None` without any."""
    found = list(lists)
    return Lists(*(np.concatenate(parts) for parts in zip(*found, strict=True))) if found else None


def questions(
    log: TrainingLog, vectors: Vectors, trainers: Mapping[str, Trainer], seed: int, cuts: int, most: int
) -> Iterator[Question]:
    """The questions of a log: the last item of each user, and rolling cuts in time, the newest first.

    With the first, users ask within a visit; with the others, after a pause. Nothing of what is asked for is known to
    the sources. A question has at most `most` users, the ones whose targets are the newest. Cuts end when they have
    as many together.
    """
    columns, rules = log.columns, log.rules
    is_target = of_types(columns, counted_types(columns, rules)) & columns.is_item[columns.subject]
    last = _last(columns, is_target, seed)
    last = np.sort(last[np.argsort(-columns.time_us[last], kind="stable")[:most]])
    known = np.ones(len(is_target), np.bool_)
    known[last] = False
    if len(last):
        yield _question(log, vectors, trainers, known, ~known)
    times, asked = np.sort(columns.time_us), 0
    for number in range(1, cuts + 1):
        places = [int((1.0 - _STEP * back) * len(times)) for back in (number, number - 1)]
        if places[0] <= 0 or asked >= most:
            break
        start, end = int(times[places[0]]), int(times[min(places[1], len(times) - 1)])
        wanted = is_target & (columns.time_us >= start) & ((columns.time_us < end) | (number == 1))
        question = _question(log, vectors, trainers, columns.time_us < start, wanted, start, most - asked)
        if log.answers is not None:
            question = replace(question, answers=log.answers.between(start, end))
        asked += len(question.users)
        if len(question.users):
            yield question


def _last(columns: InteractionColumns, is_target: Mask, seed: int) -> Ints:
    """The last target of each user with others before it; random numbers order those of the same time."""
    places = np.flatnonzero(is_target)
    user, ties = columns.user[places], np.random.default_rng(seed).random(len(places))
    order = np.lexsort([ties, columns.time_us[places], user])
    ordered = user[order]
    is_last = np.append(ordered[1:] != ordered[:-1], True)[: len(order)]
    has_others = np.append(False, ordered[1:] == ordered[:-1])[: len(order)]
    return np.asarray(places[order[is_last & has_others]])


def _question(
    log: TrainingLog,
    vectors: Vectors,
    trainers: Mapping[str, Trainer],
    known: Mask,
    wanted: Mask,
    asked_us: int | None = None,
    most: int | None = None,
) -> Question:
    """The new items of users with a history; of the users with the newest ones, where there are too many."""
    columns, items = log.columns, len(log.columns.subjects)
    user = columns.user
    known_pairs = user[known] * items + columns.subject[known]
    pairs = np.unique(user[wanted] * items + columns.subject[wanted])
    pairs = pairs[~np.isin(pairs, known_pairs)]
    target_user, target_item = np.divmod(pairs, items)
    users = np.intersect1d(target_user, user[known])
    if most is not None and len(users) > most:
        newest = np.zeros(columns.users, np.int64)
        np.maximum.at(newest, user[wanted], columns.time_us[wanted])
        users = np.sort(users[np.argsort(-newest[users], kind="stable")[:most]])
    past = Past(select(columns, np.flatnonzero(known)), vectors, log.rules, trainers)
    return Question(past, users, target_user, target_item, asked_us)


def listed(question: Question, trainings: frozenset[str], options: PreparedOptions) -> Lists:
    """The candidates of each user of a question, of whom at least one was turned to."""
    data, items = question.past.data(trainings), len(question.past.columns.subjects)
    proposing = _proposing(data, options)
    wanted = np.sort(question.target_user * items + question.target_item)
    found = []
    askable = question.users if proposing is not None else question.users[:0]
    for start in range(0, len(askable), _AT_ONCE):
        users = askable[start : start + _AT_ONCE]
        asked = list(zip(users.tolist(), _queries(question, users, data), strict=True))
        asked = [(user, query) for user, query in asked if query.profile.is_usable]
        if not asked:
            continue
        assert proposing is not None
        queries = [query for _, query in asked]
        proposed = proposing.propose(queries, proposing.asked(queries), options.options.pool)
        labels = [np.isin(user * items + of.pool, wanted) for (user, _), of in zip(asked, proposed, strict=True)]
        kept = [place for place, of_user in enumerate(labels) if of_user.any()]
        if not kept:
            continue
        of_kept = [proposed[place] for place in kept]
        rows = [of.pool for of in of_kept]
        matrix = proposing.features([queries[place] for place in kept], of_kept, rows)
        lengths = np.array([len(of) for of in rows])
        is_visit = np.full(len(matrix), question.asked_us is None)
        found.append(
            Lists(
                matrix, np.concatenate([labels[place] for place in kept]).astype(np.int64), lengths, is_visit,
                np.ones(len(matrix)),
            )
        )  # fmt: skip
    return joined(found) or _none(options)


def listed_answers(
    question: Question, columns: InteractionColumns, trainings: frozenset[str], options: PreparedOptions, clip: float
) -> Lists:
    """The items of answers that were given after a part of the log, by what was known when they were given.

    The sources know the part; histories are those of the moment of the answer, as while serving.

    Args:
        question: The part, and the answers.
        columns: All interactions.
        trainings: Trainings of the sources.
        options: Options of the ranker.
        clip: Bound of the weights; see `recserve_export.training.ranking.answers`.
    """
    data, answers = question.past.data(trainings), question.answers
    proposing = _proposing(data, options)
    if proposing is None or answers is None or not len(answers.user):
        return _none(options)
    weights, found = inverse_weights(answers.propensity, clip), []
    for start in range(0, len(answers.user), _AT_ONCE):
        numbers = np.arange(start, min(start + _AT_ONCE, len(answers.user)))
        times_us = answers.time_us[numbers]
        histories = histories_at(columns, answers.user[numbers], times_us, question.past.rules)
        queries = [_query(history, data, at) for history, at in zip(histories, times_us.tolist(), strict=True)]
        kept = [place for place, query in enumerate(queries) if query.profile.is_usable]
        queries = [queries[place] for place in kept]
        shown = [slice(*answers.offsets[number : number + 2].tolist()) for number in numbers[kept].tolist()]
        if not shown:
            continue
        rows = [answers.item[of] for of in shown]
        proposed = proposing.propose(queries, proposing.asked(queries), options.options.pool)
        clicked, of_shown = (np.concatenate([values[of] for of in shown]) for values in (answers.clicked, weights))
        found.append(
            Lists(
                proposing.features(queries, proposed, rows), clicked.astype(np.int64),
                np.array([len(of) for of in rows]), np.zeros(len(clicked), np.bool_), of_shown,
            )
        )  # fmt: skip
    return joined(found) or _none(options)


def _proposing(data: Data, options: PreparedOptions) -> CandidateSources | None:
    """The sources; `None` where one could not learn from the part, so that the ranker could not be served with it."""
    sources = list(options.sources.values())
    if any(of.strategy.lacking(data, of.options) is not None for of in sources):
        return None
    return CandidateSources(sources, Scatter())


def _none(options: PreparedOptions) -> Lists:
    none = np.empty(0, np.int64)
    features = np.empty((0, len(feature_names(list(options.sources)))))
    return Lists(features, none, none, np.empty(0, np.bool_), np.empty(0))


def _queries(question: Question, users: Ints, data: Data) -> list[Query]:
    """The query of each user, as the server makes it."""
    return [
        _query(history, data, history.newest_us if question.asked_us is None else question.asked_us)
        for history in question.past.histories(users)
    ]


def _query(history: RecordedHistory, data: Data, now_us: int) -> Query:
    request = RecommendRequest(user_id="")
    resolved = profile_of_user(request, history, data.view, Limits(), now_us)
    return Query(resolved.profile, data, CandidateSpec(request.k, resolved.banned))
