"""Slates for users by id that an ordinary request cannot ask for: blends, several interests, exploration, new items.

Per user: the history is parted into interests, each has candidates (nearest texts, neighbours of its items, popular and
new items) and their scores; the lists become one, options arrange it, and some places explore.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final, NamedTuple

import msgspec
import numpy as np

from recserve_client.contract import Explore, RequestError
from recserve_client.contract.slate_options import Recency, SlateOptions
from recserve_server_ext.attributes.boosts import at_moment, boost_shares
from recserve_server_ext.catalogue.view import View
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows, Vectors
from recserve_server_ext.config.blend import BlendRules
from recserve_server_ext.recommend.interests import GAIN, interests_of, turns
from recserve_server_ext.recommend.query import Job, cancelled, vectors_of, wanted_of
from recserve_server_ext.slate.exploration import Explored, explored
from recserve_server_ext.slate.maker import Chosen, Wish, arranged, candidates_of, pinned, search_candidates
from recserve_server_ext.strategies.blend import NOTHING, TEXT, Mixture, Pairs, Sparse, mixture, pairs_of
from recserve_server_ext.strategies.counts_view import CountsView, PopularRows, TextSpread
from recserve_server_ext.strategies.text import contributions, user_vectors

#: Candidates of each part of a score besides text, at least, and as many times k.
_AT_LEAST: Final = 200
_TIMES: Final = 4


@dataclass(frozen=True, eq=False)
class Plan:
    """A slate to make.

    Attributes:
        job: What is asked for, the history, and what must not be in the slate.
        counted: [behaviours] weights for item-to-item counts.
        behaviours: How many the user has; 0 = only what is popular is known.
        strategy: `text` or `blend`.
        interests: The most there may be.
        popular: What is popular among the likes of this visit.
        explore: Whether to.
        new_items: Share by age.
        gain: See `interests_of`.
        idle_s: Since the newest of the behaviours; 0 in a session.
    """

    job: Job
    counted: Floats
    behaviours: int
    strategy: str = "text"
    interests: int = 1
    popular: PopularRows | None = None
    explore: Explore | None = None
    new_items: Recency | None = None
    gain: float = GAIN
    idle_s: float = 0.0

    def with_gain(self, gain: float) -> Plan:
        """The same with another rule for the number of interests."""
        return replace(self, gain=gain)

    @cached_property
    def wish(self) -> Wish:
        """The slate, and after it the candidates to explore."""
        want = wanted_of(self.job)
        pool = self.explore.pool if self.explore is not None else 0
        options = at_moment(self.job.request.slate or SlateOptions())
        return Wish(options, want._replace(k=want.k + pool), self.job.filters, self.job.rules)

    @cached_property
    def usable(self) -> Mask:
        """[rows] what may be in the slate."""
        want = self.wish.want
        usable = (self.job.view.available if want.allowed is None else want.allowed.mask).copy()
        usable[want.banned] = False
        return usable


class Ranked(NamedTuple):
    """A slate.

    Attributes:
        rows: [items].
        parts: [items, behaviours] contributions.
        counts: [items] the part of them that comes from item-to-item counts.
        popularity: [items] share; new: [items] share by age.
        interest: [items] number of the interest.
        chosen: Boosts and rules of each item.
        explored: What was drawn; none = nothing could be.
        labels: [behaviours] interest of each.
        masses: Part of each interest in the history.
    """

    rows: Rows
    parts: Floats
    counts: Floats
    popularity: Floats
    new: Floats
    interest: Ints
    chosen: Chosen
    explored: Explored | None
    labels: Ints
    masses: list[float]


@dataclass(eq=False)
class _Line:
    """One interest of one user: its weights, and its candidates with their scores."""

    plan: int
    number: int
    weights: Floats
    counted: Floats
    share: float
    vector: Vectors | None = None
    norm: float = 1.0
    pairs: Pairs | None = None
    sums: Sparse = NOTHING
    heat: Sparse = NOTHING
    mixed: Mixture = TEXT
    rows: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    scores: Floats = field(default_factory=lambda: np.empty(0))


class UserRanker:
    """Makes the slates of a batch; not to be used by two threads at a time."""

    def __init__(self, rules: BlendRules) -> None:
        """
        Args:
            rules: Of the strategy `blend`.
        """
        self._rules = rules
        self._spread: TextSpread | None = None

    def rank(self, counts: CountsView, plans: Sequence[Plan]) -> list[Ranked | RequestError]:
        """The slate of each plan, or why there is none: its vectors cancel.

        Args:
            counts: Of the log, over the view of all jobs.
            plans: At least one.
        """
        view = counts.view
        behaviours = [_behaviours(view, plan) for plan in plans]
        labels = _labels(plans, behaviours)
        lines: list[_Line] = []
        answers: list[Ranked | RequestError] = []
        failed: dict[int, RequestError] = {}
        for number, plan in enumerate(plans):
            made = _lines(number, plan, behaviours[number], labels[number])
            if isinstance(made, RequestError):
                failed[number] = made
            else:
                lines += made
        self._search(counts, plans, lines)
        for number, plan in enumerate(plans):
            if number in failed:
                answers.append(failed[number])
                continue
            own = [line for line in lines if line.plan == number]
            answers.append(_ranked(counts, plan, own, behaviours[number], labels[number]))
        return answers

    def _search(self, counts: CountsView, plans: Sequence[Plan], lines: Sequence[_Line]) -> None:
        """Give each line its candidates and their scores."""
        view = counts.view
        vectored = [line for line in lines if line.vector is not None]
        found: dict[int, Rows] = {}
        spreads: dict[int, float] = {}
        if vectored:
            users = np.stack([line.vector for line in vectored if line.vector is not None])
            wishes = [plans[line.plan].wish for line in vectored]
            widths = [_width(plans[line.plan]) for line in vectored]
            for line, rows in zip(vectored, search_candidates(view, users, wishes, widths), strict=True):
                found[id(line)] = rows
            if any(plans[line.plan].strategy == "blend" for line in vectored):
                spreads = dict(zip(map(id, vectored), self._text_spread(view).of(users).tolist(), strict=True))
        for line in lines:
            plan = plans[line.plan]
            self._mix(counts, plan, line, spreads.get(id(line), 0.0))
            line.rows = _candidates(view, plan, line, found.get(id(line)))
            line.scores = line.sums.at(line.rows) * line.mixed.counts + line.heat.at(line.rows) * line.mixed.popularity
            if line.vector is not None:
                line.scores = line.scores + line.mixed.text * (view.vectors(line.rows) @ line.vector).astype(np.float64)

    def _mix(self, counts: CountsView, plan: Plan, line: _Line, text_spread: float) -> None:
        popular = plan.popular
        if popular is None:
            return
        if plan.strategy == "text":
            if not plan.behaviours:
                line.heat = Sparse(popular.rows, popular.share, popular.by_share)
                line.mixed = Mixture(0.0, 0.0, 1.0)
            return
        line.heat = Sparse(popular.rows, popular.heat, popular.by_heat)
        line.pairs = pairs_of(counts, plan.job.history.rows, line.counted)
        line.sums = line.pairs.summed()
        items = len(counts.view.available)
        line.mixed = mixture(self._rules, plan.behaviours, plan.idle_s, text_spread, line.sums, popular, items)

    def _text_spread(self, view: View) -> TextSpread:
        if self._spread is None or self._spread.snapshot is not view.snapshot:
            self._spread = TextSpread(view)
        return self._spread


def _width(plan: Plan) -> int:
    """Candidates by text."""
    wish = plan.wish
    is_plain = plan.strategy == "text" and plan.interests == 1
    return max(candidates_of(wish.options, wish.want.k), 0 if is_plain else max(_AT_LEAST, _TIMES * wish.want.k))


def _behaviours(view: View, plan: Plan) -> Vectors:
    """[behaviours, dim]."""
    history = plan.job.history
    return vectors_of(view, [history])[0] if len(history.rows) else np.empty((0, view.dim), np.float32)


def _labels(plans: Sequence[Plan], behaviours: Sequence[Vectors]) -> list[Ints]:
    """The interest of each behaviour of each user."""
    found = [np.zeros(len(plan.counted), np.int64) for plan in plans]
    several = [n for n, plan in enumerate(plans) if plan.interests > 1 and plan.behaviours]
    for most, gain in {(plans[n].interests, plans[n].gain) for n in several}:
        alike = [n for n in several if (plans[n].interests, plans[n].gain) == (most, gain)]
        histories = [(behaviours[n], plans[n].job.history.weights) for n in alike]
        for n, labels in zip(alike, interests_of(histories, most, gain), strict=True):
            found[n] = labels
    return found


def _lines(number: int, plan: Plan, behaviours: Vectors, labels: Ints) -> list[_Line] | RequestError:
    """The interests of a user that have a direction; one without any where only popularity is known."""
    weights = plan.job.history.weights
    if not plan.behaviours:
        return [_Line(number, 0, weights, plan.counted, 1.0)]
    lines: list[_Line] = []
    for interest in range(int(labels.max(initial=0)) + 1):
        own = labels == interest
        masked = np.where(own, weights, 0.0)
        users = user_vectors(behaviours[None], masked[None])
        # Neighbours of what is liked also count where the texts cancel out.
        if users.cancelled[0] and not (plan.strategy == "blend" and plan.counted[own].any()):
            failure = cancelled(users, 0)
            continue
        vector = None if users.cancelled[0] else users.vectors[0]
        mass = float(np.maximum(masked, 0.0).sum()) or float(users.mass[0]) or 1.0
        counted = np.where(own, plan.counted, 0.0)
        lines.append(_Line(number, interest, masked, counted, mass, vector, float(users.norms[0])))
    return lines or failure


def _candidates(view: View, plan: Plan, line: _Line, by_text: Rows | None) -> Rows:
    """[n] rows that may be in the slate, no row twice, in a fixed order."""
    wish, usable = plan.wish, plan.usable
    n = max(_AT_LEAST, _TIMES * wish.want.k)
    parts = [pinned(view, wish) if by_text is None else by_text]
    if line.mixed.counts:
        parts.append(line.sums.best(n, usable))
    if line.mixed.popularity:
        parts.append(line.heat.best(n, usable))
    if plan.new_items is not None:
        order = plan.job.filters.newest(plan.new_items.attribute)
        parts.append(order[usable[order]][:n])
    return np.array(list(dict.fromkeys(np.concatenate(parts).tolist())), np.int64)


def _ranked(counts: CountsView, plan: Plan, lines: list[_Line], behaviours: Vectors, labels: Ints) -> Ranked:
    """One list of the lines, arranged, with what its scores are made of."""
    view, wish = counts.view, plan.wish
    options = wish.options
    rows = np.concatenate([line.rows for line in lines])
    owner = np.repeat(np.arange(len(lines)), [len(line.rows) for line in lines])
    scores = np.concatenate([line.scores for line in lines])
    sources = plan.job.filters.sources(rows[None])
    boosts = boost_shares(options.boosts, sources)[0] if options.boosts else np.zeros((len(rows), 0))
    new = np.zeros(len(rows))
    if plan.new_items is not None:
        new = boost_shares([plan.new_items], sources)[0, :, 0]
    scores = scores + new + boosts.sum(axis=1)
    if options.min_score is not None:
        kept = scores >= options.min_score
        rows, owner, scores, boosts, new = rows[kept], owner[kept], scores[kept], boosts[kept], new[kept]
    total = sum(line.share for line in lines)
    order, values = _merged(rows, owner, scores, [line.share / total for line in lines])
    shape = wish._replace(options=msgspec.structs.replace(options, boosts=[], min_score=None))
    candidates = rows[order]
    (made,) = arranged(view, [shape], candidates[None], view.vectors(candidates)[None], values[None])
    made, drawn = _explore(counts, plan, made)
    place_of = dict(zip(candidates.tolist(), order.tolist(), strict=True))
    picks = np.array([place_of[row] for row in made.rows.tolist()], np.int64)
    chosen = made._replace(shares=boosts[picks] if options.boosts else None)
    ranked = Ranked(
        rows=made.rows,
        parts=np.empty(0),
        counts=np.empty(0),
        popularity=np.empty(0),
        new=new[picks],
        interest=np.array([line.number for line in lines])[owner[picks]],
        chosen=chosen,
        explored=drawn,
        labels=labels,
        masses=[line.share / total for line in lines],
    )
    return _explained(view, lines, behaviours, owner[picks], ranked)


def _merged(rows: Rows, owner: Ints, scores: Floats, shares: list[float]) -> tuple[Ints, Floats]:
    """Places of distinct rows, and what they are ordered by: the score, or the turn where there are several lists."""
    values = scores
    if len(shares) > 1:
        values = np.empty(len(rows))
        lists = [np.flatnonzero(owner == number) for number in range(len(shares))]
        for places, own in zip(lists, turns([len(places) for places in lists], shares), strict=True):
            values[places[np.argsort(-scores[places], kind="stable")]] = -own
    order = np.lexsort([np.arange(len(rows)), -values])
    _, first = np.unique(rows[order], return_index=True)
    order = order[np.sort(first)]
    return order, values[order]


def _explore(counts: CountsView, plan: Plan, made: Chosen) -> tuple[Chosen, Explored | None]:
    k = plan.job.request.k
    if plan.explore is None:
        return made, None
    fixed = np.array([bool(names) for names in made.rules or [[]] * len(made.rows)], np.bool_)
    beliefs = counts.beliefs(made.rows) if plan.explore.kind == "thompson" else None
    drawn = explored(plan.explore, len(made.rows), k, fixed, beliefs)
    rules = None if made.rules is None else [made.rules[place] for place in drawn.picks.tolist()]
    return Chosen(made.rows[drawn.picks], None, rules), drawn


def _explained(view: View, lines: list[_Line], behaviours: Vectors, owner: Ints, ranked: Ranked) -> Ranked:
    """The slate with the contributions of each behaviour and the shares of each part."""
    rows, n = ranked.rows, len(behaviours)
    parts, counts, popularity = np.zeros((len(rows), n)), np.zeros(len(rows)), np.zeros(len(rows))
    for number, line in enumerate(lines):
        own = np.flatnonzero(owner == number)
        popularity[own] = line.mixed.popularity * line.heat.at(rows[own])
        if line.vector is not None and len(own):
            norms, items = np.array([line.norm]), view.vectors(rows[own])[None]
            text = contributions(behaviours[None], line.weights[None], norms, items)
            parts[own] = line.mixed.text * text[0]
        if line.pairs is not None and line.mixed.counts:
            shares = line.mixed.counts * line.pairs.shares(rows[own], n)
            parts[own] += shares
            counts[own] = shares.sum(axis=1)
    return ranked._replace(parts=parts, counts=counts, popularity=popularity)
