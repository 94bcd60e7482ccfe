"""Queries of a batch -> slates, by stages, each over all jobs: candidates, scores, rules, pages, explanations.

What nothing usable is known of goes through the same stages with the fallback strategy.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec
import numpy as np

from recserve_client.contract import ErrorKind, RequestError, Slate
from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.common.arrays import Floats, Ints, Rows
from recserve_server_ext.recommend.course import Course, Line, added_shares
from recserve_server_ext.recommend.explain import slates_of
from recserve_server_ext.recommend.interests import interests_of, sainte_lague
from recserve_server_ext.recommend.paging import Part, Ranking, Rankings
from recserve_server_ext.recommend.picks import Picks
from recserve_server_ext.recommend.profile import nobody
from recserve_server_ext.recommend.query import Job, pinned_rows
from recserve_server_ext.slate.exploration import explored
from recserve_server_ext.slate.maker import Arranged, Shape, make_slates
from recserve_server_ext.strategies.base import Candidates, Query, Strategy, behaviour_vectors, total
from recserve_server_ext.strategies.registry import Chosen

#: Candidates where options choose among them: four times k, at least 100, at most 1,000 more than k.
_TIMES, _AT_LEAST, _MORE = 4, 100, 1000
#: Candidates of an interest cluster, at least: some of them are those of another one, too.
_OF_INTEREST: Final = 200
#: Times as many for a slate that groups left short.
_WIDER: Final = 8
T = TypeVar("T")


class Pipeline:
    """Makes the slates of batches; not to be used by two threads at a time."""

    def __init__(self, fallback: Chosen, rankings: Rankings) -> None:
        """
        Args:
            fallback: Answers where nothing usable is known of the user.
            rankings: Of which pages were asked.
        """
        self._fallback = fallback
        self._rankings = rankings

    def run(self, jobs: Sequence[Job]) -> list[Slate | RequestError]:
        """The slate of each job of one batch, or why there is none.

        Args:
            jobs: With a query or an error each, and no texts missing.
        """
        start_ns = time.monotonic_ns()
        answers: list[Slate | RequestError | None] = [job.error for job in jobs]
        courses = {n: Course(job, _lines(job)) for n, job in enumerate(jobs) if job.error is None}
        several = [course for course in courses.values() if course.job.request.interests > 1]
        _part(several)
        for number, error in self._settle_cold(courses):
            answers[number] = error
            del courses[number]
        live = list(courses.values())
        self._choose([course for course in live if course.job.part is None])
        for course in live:
            if course.job.request.page is not None:
                self._cut_page(course)
        search_ns = time.monotonic_ns() - start_ns
        for number, slate in zip(courses, slates_of(live, search_ns), strict=True):
            answers[number] = slate
        return [answer for answer in answers if answer is not None]

    def _settle_cold(self, courses: dict[int, Course]) -> list[tuple[int, RequestError]]:
        """Give the fallback strategy to jobs of whose user nothing usable is known; those that refuse come back."""
        lines = [(number, line) for number, course in courses.items() for line in course.lines]
        found = _cold([line for _, line in lines])
        if not any(found):
            return []
        reasons: dict[int, list[RequestError | None]] = defaultdict(list)
        for (number, _), reason in zip(lines, found, strict=True):
            reasons[number].append(reason)
        refused = []
        for number, course in courses.items():
            known = [line for line, why in zip(course.lines, reasons[number], strict=True) if why is None]
            if known:
                course.lines = known
            elif (why := reasons[number][-1]) is not None and not course.job.falls_back:
                refused.append((number, why))
            else:
                self._fall_back(course)
        return refused

    def _fall_back(self, course: Course) -> None:
        """Go on as if nothing were known of the user."""
        job = course.job
        assert job.query is not None
        course.is_cold, course.labels = True, None
        chosen = job.chosen if job.chosen.strategy.answers_cold else self._fallback
        query = Query(nobody(), job.data, job.query.spec, chosen.options, job.query.context)
        course.lines = [Line(query, chosen)]

    def _choose(self, courses: Sequence[Course]) -> None:
        """Give each course its picks."""
        plain = [course for course in courses if course.job.is_plain]
        _propose(plain, 1)
        for course in plain:
            line = course.lines[0]
            course.picks = Picks(line.found.rows[: course.job.request.k], is_by_score=True)
        shaped = [course for course in courses if course.picks is None]
        if not shaped:
            return
        short = _shape(shaped, 1)
        # A group may keep away all candidates that are left; further down there may be others.
        if short:
            _shape(short, _WIDER)
        for course in shaped:
            _explore(course)

    def _cut_page(self, course: Course) -> None:
        """Make the picks a page of the ranking, whose cursor for the next one is set."""
        job, page = course.job, course.job.request.page
        assert page is not None
        if job.part is None:
            assert course.picks is not None
            if len(course.picks.rows) <= page.size:
                return
            ranking = Ranking(job.data.view.ids(course.picks.rows), course.picks, job.data.view.revision)
            job.part = Part(self._rankings.keep(ranking), ranking, 0)
        name, ranking, start = job.part
        view = job.data.view
        rows = np.array([view.row_of.get(item_id, -1) for item_id in ranking.ids[start:]], np.int64)
        # In the place of what is gone comes what follows: only the last page is short.
        left = np.flatnonzero((rows >= 0) & view.available[rows])
        if len(left) > page.size:
            job.cursor = self._rankings.cursor(job.request, name, start + int(left[page.size]))
        kept = left[: page.size]
        course.picks = ranking.picks.at(start + kept, rows[kept])


def _lines(job: Job) -> list[Line]:
    assert job.query is not None
    return [Line(job.query, job.chosen)]


def _part(courses: Sequence[Course]) -> None:
    """Part the histories of jobs that asked for it into interest clusters, a line for each."""
    for most in {course.job.request.interests for course in courses}:
        alike = [course for course in courses if course.job.request.interests == most and course.job.profile.count]
        profiles = [course.job.profile for course in alike]
        if not alike:
            continue
        space = alike[0].job.data.view.text
        histories = [(behaviour_vectors(space, [profile])[0], profile.weights) for profile in profiles]
        for course, labels in zip(alike, interests_of(histories, most), strict=True):
            course.labels = labels
            course.lines = [_line_of(course.job, labels, number) for number in range(int(labels.max(initial=0)) + 1)]


def _line_of(job: Job, labels: Ints, number: int) -> Line:
    """The list of one interest cluster."""
    query = job.query
    assert query is not None
    part = query.profile.part(labels == number)
    liked, all_of_it = float(np.maximum(part.weights, 0.0).sum()), float(np.abs(part.weights).sum())
    own = Query(part, query.data, query.spec, query.options, query.context)
    return Line(own, job.chosen, number, liked or all_of_it or 1.0)


def _grouped(lines: Sequence[Line]) -> Iterator[tuple[Chosen, list[int]]]:
    """Places of the lines that ask the same strategy with the same options: one array operation each."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, line in enumerate(lines):
        groups[id(line.chosen.strategy), id(line.chosen.options)].append(place)
    for places in groups.values():
        yield lines[places[0]].chosen, places


def _over(lines: Sequence[Line], ask: Callable[[Strategy, list[int]], Sequence[T]]) -> list[T]:
    """What the strategy of each line answers."""
    found: dict[int, T] = {}
    for chosen, places in _grouped(lines):
        found.update(zip(places, ask(chosen.strategy, places), strict=True))
    return [found[place] for place in range(len(lines))]


def _cold(lines: Sequence[Line]) -> list[RequestError | None]:
    """Why nothing can be made of each line's profile; `None` where something can."""

    def ask(strategy: Strategy, places: list[int]) -> list[RequestError | None]:
        if not strategy.is_personal:
            return [None] * len(places)
        usable = [place for place in places if lines[place].query.profile.is_usable]
        reasons = dict(
            zip(usable, strategy.cold([lines[place].query for place in usable]) if usable else [], strict=True)
        )
        return [reasons.get(place, _NOTHING_USABLE) if place not in reasons else reasons[place] for place in places]

    return _over(lines, ask)


_NOTHING_USABLE: Final = RequestError(ErrorKind.EMPTY_HISTORY, "nothing usable is recorded of the user")


def _propose(courses: Sequence[Course], times: int) -> None:
    """Give each line its candidates: the strategy's, then enough for each quota, then pinned and new items."""
    asked: list[Line] = []
    wanted: list[int] = []
    owner: list[Line] = []
    both: dict[tuple[int, int], Allowed] = {}
    for course in courses:
        n = times * _width(course.job)
        for line in course.lines:
            asked.append(line)
            wanted.append(n)
            owner.append(line)
            for query, most in _for_quotas(course.job, line.query, both) if course.job.options is not None else ():
                asked.append(Line(query, line.chosen))
                wanted.append(most)
                owner.append(line)

    def ask(strategy: Strategy, places: list[int]) -> list[Rows]:
        return strategy.candidates([asked[place].query for place in places], [wanted[place] for place in places])

    rows: dict[int, list[Rows]] = defaultdict(list)
    for line, found in zip(owner, _over(asked, ask), strict=True):
        rows[id(line)].append(found)
    for course in courses:
        more = [] if course.job.is_plain else _named(course.job)
        for line in course.lines:
            of_line = [*rows[id(line)], *more]
            line.found = Candidates(of_line[0] if len(of_line) == 1 else _distinct(of_line))


def _width(job: Job) -> int:
    """How many candidates to ask for: the more, the nearer to a choice among all items."""
    options, k = job.options, job.wanted
    n = k
    if options is not None and (options.groups or options.diversify or options.bury or options.quotas):
        n = max(_AT_LEAST, min(_TIMES * k, k + _MORE))
    return n if job.request.interests == 1 else max(n, _OF_INTEREST, _TIMES * k)


def _for_quotas(job: Job, query: Query, both: dict[tuple[int, int], Allowed]) -> Iterator[tuple[Query, int]]:
    """A query for the items of each quota."""
    options = job.options
    if options is None or not options.quotas:
        return
    for quota, named in zip(options.quotas, job.rules[len(options.bury) :], strict=True):
        where = query.spec.allowed
        allowed = named
        if where is not None:
            # One object for equal filters, so that the users share a search.
            pair = id(named), id(where)
            allowed = both[pair] = both.get(pair) or named.also(where)
        spec = query.spec._replace(n=quota.at_least, allowed=allowed)
        yield Query(query.profile, query.data, spec, query.options, query.context, query.kept), quota.at_least


def _named(job: Job) -> list[Rows]:
    """Candidates that a request names: pinned and new items."""
    named = []
    if len(pins := pinned_rows(job)):
        named.append(pins[pins >= 0])
    if job.request.new_items is not None:
        assert job.query is not None
        newest = job.data.filters.newest(job.request.new_items.attribute)
        named.append(job.query.best_of(newest, max(_OF_INTEREST, _TIMES * job.wanted)))
    return named


def _distinct(found: Sequence[Rows]) -> Rows:
    """The rows of several lists, no row twice, in their order."""
    return np.array(list(dict.fromkeys(np.concatenate(found).tolist())), np.int64)


def _shape(courses: Sequence[Course], times: int) -> list[Course]:
    """Propose, score and arrange; those that groups left short come back."""
    _propose(courses, times)
    lines = [line for course in courses for line in course.lines]

    def ask(strategy: Strategy, places: list[int]) -> list[Floats]:
        found = [lines[place].found for place in places]
        parts = strategy.score([lines[place].query for place in places], found)
        return [total(of, len(own.rows)) for of, own in zip(parts, found, strict=True)]

    for line, scores in zip(lines, _over(lines, ask), strict=True):
        line.scores = scores
    merged = [_merged(course) for course in courses]
    data = courses[0].job.data
    shapes = [_shape_of(course.job) for course in courses]
    arranged = make_slates(data.view, data.filters, shapes, [of.rows for of in merged], [of.values for of in merged])
    short = []
    for course, of, slate in zip(courses, merged, arranged, strict=True):
        course.picks = of.picked(slate)
        options = course.job.options
        is_short = len(slate.picks) < course.job.wanted and times * _width(course.job) < len(data.view.available)
        if options is not None and options.groups and is_short:
            short.append(course)
    return short


def _shape_of(job: Job) -> Shape:
    options = job.options or SlateOptions()
    # These are in the values of the candidates.
    options = msgspec.structs.replace(options, boosts=[], min_score=None)
    return Shape(options, job.wanted, job.rules, pinned_rows(job))


@dataclass(slots=True, eq=False)
class _Merged:
    """The candidates of all lines of a job as one list, best first.

    Attributes:
        rows: [n], no row twice.
        owner: [n] place of the line that each comes from.
        values: [n] what they are ordered by.
    """

    rows: Rows
    owner: Ints
    values: Floats

    def picked(self, slate: Arranged) -> Picks:
        """The items of a slate."""
        return Picks(self.rows[slate.picks], self.owner[slate.picks], slate.rules)


def _merged(course: Course) -> _Merged:
    """One list of a job's lines: by score, or by turns in proportion to the shares of interest clusters."""
    job, lines = course.job, course.lines
    rows = np.concatenate([line.found.rows for line in lines])
    owner = np.repeat(np.arange(len(lines)), [len(line.found.rows) for line in lines])
    scores = np.concatenate([line.scores for line in lines])
    added = added_shares(job, rows)
    if added is not None:
        scores = scores + added.sum(axis=1)
    if job.options is not None and job.options.min_score is not None:
        pins = pinned_rows(job)
        kept = (scores >= job.options.min_score) | np.isin(rows, pins[pins >= 0])
        rows, owner, scores = rows[kept], owner[kept], scores[kept]
    values = scores
    if len(lines) > 1:
        values = np.empty(len(rows))
        lists = [np.flatnonzero(owner == number) for number in range(len(lines))]
        for places, turn in zip(lists, sainte_lague([len(of) for of in lists], course.masses), strict=True):
            values[places[np.argsort(-scores[places], kind="stable")]] = -turn
    order = np.argsort(-values, kind="stable")
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)]
    return _Merged(rows[order], owner[order], values[order])


def _explore(course: Course) -> None:
    """Give some of the last places to candidates after the slate, where the request asked for it."""
    explore, picks = course.job.request.explore, course.picks
    assert picks is not None
    if explore is None:
        return
    fixed = np.array([bool(names) for names in picks.rules or [[]] * len(picks.rows)], np.bool_)
    beliefs = course.job.data.counts.beliefs(picks.rows) if explore.kind == "thompson" else None
    drawn = explored(explore, len(picks.rows), course.job.request.k, fixed, beliefs)
    course.picks = picks.at(drawn.picks, picks.rows[drawn.picks])._replace(
        explored=drawn.drawn, propensity=drawn.propensity
    )
