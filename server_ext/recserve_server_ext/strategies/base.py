"""What a strategy is: it proposes candidates for queries, and scores them.

A strategy of one's own derives from `Strategy` and writes `candidates` and `score`; one that only turns a profile into
a vector derives from `recserve_server_ext.strategies.vector_space.VectorSpace` and writes `user_vectors`.
docs/how-to/add-a-strategy.md builds one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np

from recserve_client.contract import RequestError
from recserve_server_ext.attributes.view import ViewFilters
from recserve_server_ext.catalogue.view import SpaceView, View
from recserve_server_ext.common.arrays import Floats, Mask, Rows, Vectors
from recserve_server_ext.retrieval.search import CandidateSpec
from recserve_server_ext.strategies.counts_view import CountsView

#: Available items whose scores tell how far the scores of a user lie apart, where a strategy knows no better.
_SAMPLE = 1000
#: What is counted of the log, as far as a strategy looks at it: how many users each item had, which items go together.
Count = Literal["popularity", "neighbours"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a strategy: fields with defaults and bounds (`msgspec.Meta`). This base has none."""


class Data(NamedTuple):
    """The catalogue and the counts of the log, as one batch sees them.

    Attributes:
        view: The catalogue.
        filters: Of that view.
        counts: Of the log, by the rows of that view.
    """

    view: View
    filters: ViewFilters
    counts: CountsView


@dataclass(slots=True, eq=False)
class Profile:
    """What a request says of the user: behaviours with weights; [behaviours] each, in one order.

    Attributes:
        weights: As they count; 0 for items that the catalogue lacks. Negative ones push away.
        rows: Row of each item; -1 for texts, vectors and items that the catalogue lacks.
        vectors: Text vector of each text or vector behaviour that is known, by its place.
        missing: Every text whose vector is not known yet, by its place.
        unknown: Item ids that the catalogue lacks.
        given: Weights of this session's behaviours, none negative; 0 for those of the log. `None` where all are given.
        newer: How many interactions of the user are newer than each behaviour of the log.
        turned: How much each behaviour of the log counts apart from its age; 0 for types that push away.
        mix: The part of `given` beside what is of the log, where both are there.
        count: Behaviours that count, of all interest clusters.
        idle_s: Seconds since the newest behaviour; 0 in a session.
        own: Which behaviours belong to the interest cluster that this profile is of; `None` for all.
    """

    weights: Floats
    rows: Rows
    vectors: dict[int, Vectors]
    missing: dict[int, str]
    unknown: list[str]
    given: Floats | None = None
    newer: Floats | None = None
    turned: Floats | None = None
    mix: float = 0.5
    count: int = 0
    idle_s: float = 0.0
    own: Mask | None = None

    @property
    def is_usable(self) -> bool:
        """Whether anything counts."""
        return self.count > 0 and (self.own is None or bool(self.weights.any()))

    def recency_weights(self, half_life: float) -> Floats:
        """[behaviours] by how lately the user turned to each: 2^(-newer interactions / half-life), none negative.

        Args:
            half_life: Newer interactions after which one counts half as much.
        """
        weights = np.maximum(self.weights, 0.0) if self.given is None else self.given
        if self.given is not None and self.turned is not None and self.newer is not None:
            weights = mixed(self.given, self.turned * np.exp2(-self.newer / half_life), self.mix)
        return weights if self.own is None else np.where(self.own, weights, 0.0)

    def part(self, own: Mask) -> Profile:
        """The profile of one interest cluster; the others' behaviours weigh nothing in it."""
        return Profile(
            np.where(own, self.weights, 0.0), self.rows, self.vectors, self.missing, self.unknown, self.given,
            self.newer, self.turned, self.mix, self.count, self.idle_s, own,
        )  # fmt: skip


def mixed(given: Floats, known: Floats, mix: float) -> Floats:
    """[behaviours] the sum of two sets of weights, scaled to the parts `mix` and 1 - `mix` where both are there."""
    masses = float(np.abs(given).sum()), float(np.abs(known).sum())
    if not all(masses):
        return given + known
    return given * (mix / masses[0]) + known * ((1.0 - mix) / masses[1])


@dataclass(frozen=True, eq=False)
class Query:
    """A profile with everything asked of the candidates; nothing in it changes but what strategies keep in `kept`.

    Attributes:
        profile: Of the user.
        data: What it is answered from.
        spec: How many candidates, and which ones may be among them.
        options: Of the strategy that it is for.
        context: Of this visit.
        kept: What a strategy found out of the query, by strategy: worked out once.
    """

    profile: Profile
    data: Data
    spec: CandidateSpec
    options: Any = None
    context: Mapping[str, str] = field(default_factory=dict)
    kept: dict[Any, Any] = field(default_factory=dict)

    @cached_property
    def usable(self) -> Mask:
        """[rows] what may be among the candidates."""
        spec = self.spec
        usable = (self.data.view.available if spec.allowed is None else spec.allowed.mask).copy()
        usable[spec.banned] = False
        return usable

    def of(self, options: Any) -> Query:
        """The same for a strategy with other options; what strategies keep of it stays in one place."""
        query = replace(self, options=options)
        query.__dict__["usable"] = self.usable
        return query

    def over(self, data: Data) -> Query:
        """The same over other counts."""
        return replace(self, data=data)

    def best_of(self, rows: Rows, n: int) -> Rows:
        """At most n of some rows, best first, that may be among the candidates."""
        return np.asarray(rows[self.usable[rows]][:n])


@dataclass(slots=True, eq=False)
class Candidates:
    """Rows proposed for one query.

    Attributes:
        rows: [n], no row twice.
    """

    rows: Rows
    _vectors: dict[str, Vectors] = field(default_factory=dict)

    def vectors(self, name: str, space: SpaceView) -> Vectors:
        """[n, dim] their vectors in a space, gathered once."""
        found = self._vectors.get(name)
        if found is None:
            found = self._vectors[name] = space.vectors(self.rows)
        return found


#: What the score of each candidate is made of, by name: [n] each. The score is their sum.
Parts = dict[str, Floats]


class Explanation(NamedTuple):
    """Why some rows are recommended.

    Attributes:
        parts: What their scores are made of, by name.
        contributions: [rows, behaviours] what each behaviour adds; `None` where the strategy cannot tell.
        facts: Of each row what else there is to say, by name; `None` where there is nothing.
    """

    parts: Parts
    contributions: Floats | None = None
    facts: list[dict[str, Any]] | None = None


class Strategy(ABC):
    """Proposes candidates for queries and scores them; one instance serves all batches, one batch at a time.

    Class attributes:
        Options: Type of its options.
        per_request: Names of the options that a request may set; the server's settings can narrow their values.
        is_personal: Whether it needs a usable profile: without one a request falls back.
        is_ranked: Whether `candidates` come in the order of their scores.
        answers_cold: Whether it answers also where nothing is known of the user.
        needs_texts: Whether the vectors of the profile's texts must be there.
        counts: What it looks at of the log's counts.
        grid: Options that an evaluation chooses among, on validation.

    Attributes:
        name: As requests and settings call it.
    """

    Options: ClassVar[type[msgspec.Struct]] = Options
    per_request: ClassVar[frozenset[str]] = frozenset()
    is_personal: ClassVar[bool] = True
    is_ranked: ClassVar[bool] = True
    answers_cold: bool = False
    needs_texts: bool = False
    counts: frozenset[Count] = frozenset()
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    def __init__(self, name: str) -> None:
        """
        Args:
            name: As requests and settings call it.
        """
        self.name = name

    def prepare(self, options: Any) -> Any:
        """What queries carry as `options`, made of checked ones; these themselves, unless a strategy needs more.

        Raises:
            RequestError: They cannot be had.
        """
        return options

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Why it cannot answer yet, such as for want of a training; `None` when it can.

        Args:
            data: What it would answer from.
            options: What `prepare` made.
        """
        return None

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """[queries] why nothing can be made of each one's profile; `None` where something can."""
        return [None] * len(queries)

    @abstractmethod
    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """Rows for each query, at most about n, that its `spec` allows; best first where `is_ranked`.

        Args:
            queries: At least one, none of them cold.
            n: How many are asked for; another number than that of the spec where more are to be chosen from.
        """

    @abstractmethod
    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """What the scores of each query's candidates are made of; any rows may be asked about, not only its own."""

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """Why the chosen rows of each query are recommended."""
        return [Explanation(parts) for parts in self.score(queries, picks)]

    def std(self, queries: Sequence[Query]) -> Floats:
        """[queries] standard deviation of each one's scores over the catalogue; this one is taken from a sample."""
        view = queries[0].data.view
        rows = np.flatnonzero(view.available)
        sample = rows[:: max(1, -(-len(rows) // _SAMPLE))]
        parts = self.score(queries, [Candidates(sample) for _ in queries])
        return np.array([float(total(of, len(sample)).std()) if len(sample) else 0.0 for of in parts])


def total(parts: Parts, n: int) -> Floats:
    """[n] the sum of the parts."""
    return sum(parts.values(), start=np.zeros(n))


def behaviour_vectors(space: SpaceView, profiles: Sequence[Profile]) -> Vectors:
    """Text vectors of equally long histories; zeros where an item was skipped or a text is not known.

    Args:
        space: The space `text`.
        profiles: At least one.

    Returns:
        [users, behaviours, dim].
    """
    rows = np.array([profile.rows for profile in profiles])
    vectors = space.vectors(rows)
    if rows.min(initial=0) < 0:
        vectors[rows < 0] = 0.0
        for line, profile in zip(vectors, profiles, strict=True):
            for position, vector in profile.vectors.items():
                line[position] = vector
    return vectors
