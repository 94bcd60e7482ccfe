"""The recommendation pipeline: makes slates for a batch of jobs, stage by stage.

The stages are interest clusters, cold start, candidates, scores, slate rules, exploration, pages and explanations.
Requests without a usable profile pass the same stages with the fallback strategy.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from msgspec.structs import replace

from recserve_client.contract import ErrorKind, RequestError, Slate
from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.batching.batcher import ModelCall
from recserve_server_ext.common.arrays import Floats, Rows
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.recommend.explain import build_slates
from recserve_server_ext.recommend.interests import split_by_interest
from recserve_server_ext.recommend.job import CandidateList, Job
from recserve_server_ext.recommend.merging import merged
from recserve_server_ext.recommend.paging import CachedRanking, PagePosition, RankingCache
from recserve_server_ext.recommend.profile import empty_profile
from recserve_server_ext.recommend.query import pinned_rows
from recserve_server_ext.recommend.ranked_items import RankedItems
from recserve_server_ext.recommend.walk.stage_clock import StageClock
from recserve_server_ext.recommend.walk.walk import walk_of
from recserve_server_ext.recommend.young import YoungPlaces, placed, wanted, young_rows
from recserve_server_ext.retrieval.search import pool_size
from recserve_server_ext.slate.exploration import explored
from recserve_server_ext.slate.maker import make_slates
from recserve_server_ext.strategies.base import (
    Candidates,
    ConfiguredStrategy,
    Parts,
    Query,
    Strategy,
    distinct_rows,
    total,
)

#: Candidates of each interest cluster, and of new items: this many times the items wanted, and at least so many.
_TIMES: Final = 4
_AT_LEAST: Final = 200
#: Factor on the number of candidates for slates that group limits left short.
_WIDER: Final = 8
_NOTHING_USABLE: Final = RequestError(ErrorKind.EMPTY_HISTORY, "no usable interaction of the user is recorded")
T = TypeVar("T")


class Pipeline:
    """Makes the slates of batches; `fallback` answers where no profile is usable. Not thread-safe."""

    def __init__(self, fallback: ConfiguredStrategy, rankings: RankingCache, young: YoungPlaces | None = None) -> None:
        """
        Args:
            fallback: Answers where no profile is usable.
            rankings: Rankings kept for later pages.
            young: Places for items that are younger than the last training; `None` for none.
        """
        self._fallback = fallback
        self._young = young
        self._rankings = rankings

    def run(self, jobs: Sequence[Job], experiments: Sequence[Experiment] = ()) -> list[Slate | RequestError]:
        """The slate of each job of a batch, or its error; jobs have a query or an error, and no text is missing.

        Args:
            jobs: The batch.
            experiments: The running experiments, which a walk tells.
        """
        clock = StageClock()
        live = [job for job in jobs if job.error is None]
        split_by_interest([job for job in live if job.request.interests > 1 and job.split is None])
        for job in live:
            job.start()
            job.took_ns = clock.took_ns
        self._handle_cold_start(live)
        live = [job for job in live if job.error is None]
        _rank([job for job in live if job.page is None], self._fallback, clock)
        if self._young is not None:
            _place_young(live, self._young)
        for job in live:
            if job.request.page is not None:
                self._cut_page(job, job.request.page.size)
        clock.lap("rules")
        slates = iter(build_slates(live, clock.total_ns))
        return [
            job.error if job.error is not None else self._answer(job, next(slates), clock, experiments) for job in jobs
        ]

    def _answer(self, job: Job, slate: Slate, clock: StageClock, experiments: Sequence[Experiment]) -> Slate:
        """The slate, with its walk where the request asks for it."""
        if job.request.walk is None:
            return slate
        fallback = self._fallback.strategy.name
        return replace(slate, walk=walk_of(job, slate, clock.took_ns, fallback, experiments))

    def pending(self, job: Job) -> ModelCall | None:
        """The model call that the strategy of a job waits for, whose texts are encoded; `None` without one."""
        strategy = job.configured.strategy
        if not strategy.asks_models or job.query is None or job.error is not None:
            return None
        if job.split is None and job.request.interests > 1 and strategy.pending(job.query) is not None:
            split_by_interest([job])
        queries = [job.query] if job.split is None else [candidate_list.query for candidate_list in job.split[0]]
        return next((call for query in queries if (call := strategy.pending(query)) is not None), None)

    def resume(self, job: Job, results: Mapping[Any, Any]) -> None:
        """Take what a model answered, by its inputs."""
        assert job.query is not None
        call = self.pending(job)
        kept = [job.query.kept] if job.split is None else [candidate_list.query.kept for candidate_list in job.split[0]]
        for one in kept:
            one.update((value, results[value]) for value in (call.inputs if call is not None else ()))

    def _handle_cold_start(self, jobs: Sequence[Job]) -> None:
        """Give the fallback strategy to jobs without a usable profile, or an error where the request refuses it."""
        reasons = _cold_reasons([candidate_list for job in jobs for candidate_list in job.lists])
        if not any(reasons):
            return
        reason_of = iter(reasons)
        for job in jobs:
            job_reasons = [next(reason_of) for _ in job.lists]
            usable = [own for own, reason in zip(job.lists, job_reasons, strict=True) if reason is None]
            if usable:
                job.lists = usable
            elif job.falls_back:
                self._fall_back(job, job_reasons[-1] or _NOTHING_USABLE)
            else:
                job.error = job_reasons[-1]

    def _fall_back(self, job: Job, reason: RequestError) -> None:
        """Answer as if the user were unknown."""
        assert job.query is not None
        job.cold, job.clusters = reason, None
        configured = job.configured if job.configured.strategy.answers_cold else self._fallback
        query = Query(empty_profile(), job.data, job.query.spec, configured.options, job.query.context)
        job.lists = [CandidateList(query, configured)]
        if configured.strategy.is_selector:
            (job.error,) = _hand_over(configured.strategy, job.lists)

    def _cut_page(self, job: Job, size: int) -> None:
        """Reduce the ranked items to a page, and set the cursor of the next one."""
        if job.page is None:
            assert job.ranked is not None
            if len(job.ranked.rows) <= size:
                return
            ranking = CachedRanking(job.data.view.ids(job.ranked.rows), job.ranked, job.data.view.revision)
            job.page = PagePosition(self._rankings.add(ranking), ranking, 0)
        key, ranking, start = job.page
        view = job.data.view
        rows = view.row_of.rows(ranking.ids[start:])
        # Items that follow move up to fill the gaps of removed ones: only the last page is short.
        available = np.flatnonzero((rows >= 0) & view.available[rows])
        if len(available) > size:
            job.cursor = self._rankings.cursor(job.request, key, start + int(available[size]))
        on_page = available[:size]
        job.ranked = ranking.items.take(start + on_page, rows[on_page])


def _by_strategy(lists: Sequence[CandidateList], ask: Callable[[Strategy, list[int]], Sequence[T]]) -> list[T]:
    """[lists] what each list's strategy answers; `ask` asks it about the lists at some positions, all at once."""
    groups: dict[int, list[int]] = defaultdict(list)
    for position, candidate_list in enumerate(lists):
        groups[id(candidate_list.configured)].append(position)
    if len(groups) == 1:
        return list(ask(lists[0].configured.strategy, groups.popitem()[1]))
    answers: dict[int, T] = {}
    for positions in groups.values():
        answers.update(zip(positions, ask(lists[positions[0]].configured.strategy, positions), strict=True))
    return [answers[position] for position in range(len(lists))]


def _cold_reasons(lists: Sequence[CandidateList]) -> list[RequestError | None]:
    """[lists] why the profile is not usable; `None` where it is. Selectors hand over to what they select."""

    def ask(strategy: Strategy, positions: list[int]) -> list[RequestError | None]:
        if not strategy.is_personal:
            return [None] * len(positions)
        own = [lists[position] for position in positions]
        usable = [candidate_list for candidate_list in own if candidate_list.query.profile.is_usable]
        if not usable:
            return [_NOTHING_USABLE] * len(own)
        found = _hand_over(strategy, usable) if strategy.is_selector else strategy.cold([one.query for one in usable])
        if len(usable) == len(own):
            return found
        reasons = iter(found)
        return [next(reasons) if one.query.profile.is_usable else _NOTHING_USABLE for one in own]

    return _by_strategy(lists, ask)


def _hand_over(selector: Strategy, lists: Sequence[CandidateList]) -> list[RequestError | None]:
    """Give lists to the strategies that a selector selects for them; returns why none can answer."""
    reasons: list[RequestError | None] = []
    for candidate_list, selected in zip(lists, selector.selected([own.query for own in lists]), strict=True):
        if isinstance(selected, RequestError):
            reasons.append(selected)
            continue
        reasons.append(None)
        candidate_list.configured = selected
        candidate_list.query = candidate_list.query.with_options(selected.options)
    return reasons


def _rank(jobs: Sequence[Job], fallback: ConfiguredStrategy, clock: StageClock) -> None:
    """Rank the items of each job's slate."""
    plain: list[Job] = []
    shaped: list[Job] = []
    for job in jobs:
        job.is_plain = _is_plain(job)
        (plain if job.is_plain else shaped).append(job)
    _propose(plain, 1, fallback)
    for job in plain:
        job.ranked = RankedItems(job.lists[0].candidates.rows[: job.request.k], is_by_score=True)
    clock.lap("candidates")
    if not shaped:
        return
    # A group limit may exclude all candidates that are left; more candidates may hold others.
    if short := _shape(shaped, 1, fallback, clock):
        _shape(short, _WIDER, fallback, clock)
    for job in shaped:
        _explore(job)


def _is_plain(job: Job) -> bool:
    """Whether the slate is the first k candidates, as the strategy ranks them."""
    request = job.request
    return (
        job.options is None
        and request.explore is None
        and request.new_items is None
        and request.interests == 1
        and job.lists[0].configured.strategy.is_ranked
    )


def _propose(jobs: Sequence[Job], times: int, fallback: ConfiguredStrategy) -> None:
    """Fill the candidate lists: the strategy's candidates, enough for each quota, then those of
    the fallback strategy where there are too few, pinned and new items."""
    targets: list[CandidateList] = []
    queries: list[Query] = []
    wanted: list[int] = []
    combined: dict[tuple[int, int], Allowed] = {}
    for job in jobs:
        n = times * _width(job)
        for target in job.lists:
            target.found, target.wanted, target.filled = [], n, 0
            quotas = [] if job.options is None else list(_quota_queries(job, job.options, target.query, combined))
            queries += [target.query, *quotas]
            wanted += [n, *(query.spec.n for query in quotas)]
            targets += [target] * (1 + len(quotas))

    def ask(strategy: Strategy, positions: list[int]) -> list[Rows]:
        return strategy.candidates([queries[n] for n in positions], [wanted[n] for n in positions])

    for target, rows in zip(targets, _by_strategy(targets, ask), strict=True):
        target.found.append(rows)
    _fill_up(jobs, times, fallback)
    for job in jobs:
        named = [] if job.is_plain else _named_candidates(job)
        for target in job.lists:
            parts = [*target.found, *named]
            target.candidates = Candidates(parts[0] if len(parts) == 1 else distinct_rows(parts))


def _fill_up(jobs: Sequence[Job], times: int, fallback: ConfiguredStrategy) -> None:
    """Add candidates of the fallback strategy to lists that are too short, where the strategy asks for that."""
    short: list[tuple[CandidateList, int]] = []
    for job in jobs:
        if job.falls_back and not job.is_cold:
            n = times * _width(job)
            short += [
                (target, n)
                for target in job.lists
                if target.configured.strategy.is_filled_up and len(target.found[0]) < n
            ]
    if short:
        queries = [target.query.with_options(fallback.options) for target, _ in short]
        found = fallback.strategy.candidates(queries, [n for _, n in short])
        for (target, n), more in zip(short, found, strict=True):
            own = len(target.found[0])
            target.found[0] = distinct_rows([target.found[0], more])[:n]
            target.filled = len(target.found[0]) - own


def _width(job: Job) -> int:
    """Candidates to ask for; more where rules choose among them."""
    options, n = job.options, job.wanted
    if options is not None and (options.groups or options.diversify or options.bury or options.quotas):
        n = pool_size(n)
    return n if job.request.interests == 1 else max(n, _AT_LEAST, _TIMES * job.wanted)


def _quota_queries(
    job: Job, options: SlateOptions, query: Query, combined: dict[tuple[int, int], Allowed]
) -> Iterator[Query]:
    """A query for the items of each quota; `combined` caches combined filters, so that equal ones share a search."""
    where = query.spec.allowed
    for quota, matching in zip(options.quotas, job.rules[len(options.bury) :], strict=True):
        allowed = matching
        if where is not None:
            pair = id(matching), id(where)
            allowed = combined[pair] = combined.get(pair) or matching.also(where)
        yield replace(query, spec=replace(query.spec, n=quota.at_least, allowed=allowed))


def _named_candidates(job: Job) -> list[Rows]:
    """Pinned items and, where the request asks for new items, the newest ones."""
    named = []
    if len(pins := pinned_rows(job)):
        named.append(pins[pins >= 0])
    if job.request.new_items is not None:
        assert job.query is not None
        newest = job.data.filters.newest(job.request.new_items.attribute)
        named.append(job.query.best_of(newest, max(_AT_LEAST, _TIMES * job.wanted)))
    return named


def _shape(jobs: Sequence[Job], times: int, fallback: ConfiguredStrategy, clock: StageClock) -> list[Job]:
    """Propose and score candidates, and apply the slate rules; returns the jobs that group limits left short."""
    _propose(jobs, times, fallback)
    clock.lap("candidates")
    lists = [candidate_list for job in jobs for candidate_list in job.lists]

    def ask(strategy: Strategy, positions: list[int]) -> list[Floats]:
        candidates = [lists[position].candidates for position in positions]
        scored = strategy.score([lists[position].query for position in positions], candidates)
        return [total(parts, len(rows.rows)) for parts, rows in zip(scored, candidates, strict=True)]

    for candidate_list, scores in zip(lists, _by_strategy(lists, ask), strict=True):
        candidate_list.scores = scores
    clock.lap("score")
    merged_lists = [merged(job) for job in jobs]
    data = jobs[0].data
    slates = make_slates(data.view, data.filters, [spec for spec, _ in merged_lists])
    short = []
    for job, (spec, source), slate in zip(jobs, merged_lists, slates, strict=True):
        job.ranked = RankedItems(spec.rows[slate.picks], source[slate.picks], slate.rules)
        has_groups = job.options is not None and bool(job.options.groups)
        if has_groups and len(slate.picks) < job.wanted and times * _width(job) < len(data.view.available):
            short.append(job)
    clock.lap("rules")
    return short


def _place_young(jobs: Sequence[Job], young: YoungPlaces) -> None:
    """Give the last places of slates to the best of the items that are younger than the last training."""
    short = [(job, n) for job in jobs if (n := wanted(job, young.share))]
    candidates = [Candidates(young_rows(job)) for job, _ in short]
    lists = young.lists([job.lists[0] for job, _ in short])

    def ask(strategy: Strategy, positions: list[int]) -> list[Parts]:
        return strategy.score([lists[n].query for n in positions], [candidates[n] for n in positions])

    scored = _by_strategy(lists, ask)
    for (job, n), own, parts in zip(short, candidates, scored, strict=True):
        order = np.argsort(-total(parts, len(own.rows)), kind="stable")[:n]
        job.ranked = placed(job, own.rows[order])


def _explore(job: Job) -> None:
    """Give some of the last places to candidates after the slate, where the request asks for exploration."""
    explore, ranked = job.request.explore, job.ranked
    assert ranked is not None
    if explore is None:
        return
    is_fixed = np.array([bool(names) for names in ranked.rules or [[]] * len(ranked.rows)], np.bool_)
    posterior = job.data.counts.click_posterior(ranked.rows) if explore.kind == "thompson" else None
    slate = explored(explore, len(ranked.rows), job.request.k, is_fixed, posterior)
    taken = ranked.take(slate.picks, ranked.rows[slate.picks])
    job.ranked = replace(taken, explored=slate.drawn, propensity=slate.propensity)
