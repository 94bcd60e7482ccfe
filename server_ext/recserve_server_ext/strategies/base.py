"""The strategy interface: a strategy proposes candidates for queries and scores them.

A strategy of your own derives from `Strategy` and writes `candidates` and `score`. One that only turns a profile into a
vector derives from `recserve_server_ext.strategies.spaces.vector_space.VectorSpace` and writes `user_vectors`.
docs/how-to/add-a-strategy.md builds one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import field
from msgspec.structs import replace

from recserve_client.contract import RequestError
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows, Vectors

if TYPE_CHECKING:
    from recserve_server_ext.attributes.view import ViewFilters
    from recserve_server_ext.batching.batcher import ModelCall
    from recserve_server_ext.catalogue.view import SpaceView, View
    from recserve_server_ext.retrieval.search import CandidateSpec
    from recserve_server_ext.strategies.parts.counts_view import CountsView

#: Available items that `Strategy.std` is estimated from.
_SAMPLE = 1000
#: Behaviours of a history that a learned strategy reads: the heaviest. The rest hardly changes a score.
HEAVIEST: Final = 64
#: Statistics of the interaction log: users of each item, and item-to-item neighbours.
Count = Literal["popularity", "neighbours"]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of a strategy: fields with defaults and bounds (`msgspec.Meta`). This base class has none."""


class Data(NamedTuple):
    """The catalogue and the counts of the interaction log that one batch is answered from.

    Attributes:
        view: The catalogue.
        filters: Evaluates filters and boosts on that view.
        counts: Counts of the log, by the rows of that view.
    """

    view: View
    filters: ViewFilters
    counts: CountsView


class Profile(msgspec.Struct, eq=False):
    """The weighted history of a user: behaviours in one order, [behaviours] in each array.

    Attributes:
        weights: Weights in the user vector. Negative ones push away; 0 for items that the catalogue lacks.
        rows: Row of each item; -1 for texts, vectors and items that the catalogue lacks.
        vectors: Text vectors of behaviours that are no items, by position.
        missing: Texts that are not encoded yet, by position.
        unknown: Item ids that the catalogue lacks.
        session_weights: Weights of this session's behaviours, not negative; 0 for those of the log. `None` where the
            request brought the whole history.
        newer: Number of the user's interactions that are newer than each logged behaviour.
        undecayed_weights: Weight of each logged behaviour before it decays with age; 0 for types that push away.
        mix: Share of the session in the weights, where there is a session and a logged history.
        count: Number of behaviours with a weight, over all interest clusters.
        idle_s: Seconds since the newest behaviour; 0 in a session.
        time_us: Time of each behaviour in microseconds since 1970; `None` where it is not known.
        in_cluster: Behaviours of the interest cluster that this profile is restricted to; `None` for all behaviours.
        comments: Texts about items that the weights do not include yet, by position of the item.
    """

    weights: Floats
    rows: Rows
    vectors: dict[int, Vectors]
    missing: dict[int, str]
    unknown: list[str]
    session_weights: Floats | None = None
    newer: Floats | None = None
    undecayed_weights: Floats | None = None
    mix: float = 0.5
    count: int = 0
    idle_s: float = 0.0
    time_us: Ints | None = None
    in_cluster: Mask | None = None
    comments: dict[int, str] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether any behaviour has a weight."""
        return self.count > 0 and (self.in_cluster is None or bool(self.weights.any()))

    def recency_weights(self, half_life: float) -> Floats:
        """[behaviours] weights that decay with recency: 2^(-newer interactions / half-life), not negative."""
        weights = np.maximum(self.weights, 0.0) if self.session_weights is None else self.session_weights
        if self.session_weights is not None and self.undecayed_weights is not None and self.newer is not None:
            weights = mixed(self.session_weights, self.undecayed_weights * np.exp2(-self.newer / half_life), self.mix)
        return weights if self.in_cluster is None else np.where(self.in_cluster, weights, 0.0)

    def multiply(self, factors: Mapping[int, float]) -> None:
        """Multiply weights, by position; those of this session do not become negative."""
        places, values = list(factors), np.array(list(factors.values()))
        # Copies: a cached history has the same arrays.
        self.weights = self.weights.copy()
        self.weights[places] *= values
        if self.session_weights is not None:
            self.session_weights = self.session_weights.copy()
            self.session_weights[places] *= np.maximum(values, 0.0)
        self.count = int(np.count_nonzero(self.weights))

    def restricted_to(self, in_cluster: Mask) -> Profile:
        """The profile of one interest cluster: behaviours outside it have no weight."""
        return replace(self, weights=np.where(in_cluster, self.weights, 0.0), in_cluster=in_cluster)


def mixed(session: Floats, log: Floats, mix: float) -> Floats:
    """[behaviours] the sum of two sets of weights, scaled to the shares `mix` and 1 - `mix` where neither is empty."""
    masses = float(np.abs(session).sum()), float(np.abs(log).sum())
    if not all(masses):
        return session + log
    # Divided first: the weights of a tiny mass would overflow.
    return session / masses[0] * mix + log / masses[1] * (1.0 - mix)


#: Key of the mask `usable` in what is kept of a query.
_USABLE: Final = "usable"


class Query(msgspec.Struct, frozen=True, eq=False):
    """A profile with everything that is asked of the candidates; immutable but for the cache `kept`.

    Attributes:
        profile: The user's weighted history.
        data: The catalogue and counts to answer from.
        spec: How many candidates are wanted, and which ones are allowed.
        options: Options of the strategy that is asked.
        context: Context of this visit, such as the device.
        explain: Whether the answer is to be explained.
        kept: Cache of what was computed from this query: by strategy, the mask `usable`, and what models answered, by
            their inputs.
    """

    profile: Profile
    data: Data
    spec: CandidateSpec
    options: Any = None
    context: Mapping[str, str] = field(default_factory=dict)
    explain: bool = False
    kept: dict[Any, Any] = field(default_factory=dict)

    @property
    def usable(self) -> Mask:
        """[rows] items that may be recommended: available, matching the filter, and not banned."""
        spec, found = self.spec, self.kept.get(_USABLE)
        # A query for a quota has the same cache and another filter.
        if found is None or found[0] is not spec.allowed or found[1] is not spec.banned:
            usable = (self.data.view.available if spec.allowed is None else spec.allowed.mask).copy()
            usable[spec.banned] = False
            found = self.kept[_USABLE] = spec.allowed, spec.banned, usable
        return found[2]

    def with_options(self, options: Any) -> Query:
        """This query for a strategy with other options; both share the cache `kept`."""
        if options is self.options:
            return self
        # A fusion does this many times for every user, and `replace` takes three times as long.
        return Query(self.profile, self.data, self.spec, options, self.context, self.explain, self.kept)

    def with_spec(self, spec: CandidateSpec) -> Query:
        """This query for other candidates; both share the cache `kept`."""
        return Query(self.profile, self.data, spec, self.options, self.context, self.explain, self.kept)

    def with_data(self, data: Data) -> Query:
        """This query over other counts."""
        return replace(self, data=data)

    def best_of(self, rows: Rows, n: int) -> Rows:
        """The first n usable rows of a ranked list."""
        return np.asarray(rows[self.usable[rows]][:n])


class Candidates(msgspec.Struct, eq=False):
    """Candidate rows of one query.

    Attributes:
        rows: [n] distinct rows.
    """

    rows: Rows
    _vectors: dict[str, Vectors] = field(default_factory=dict)

    def vectors(self, name: str, space: SpaceView) -> Vectors:
        """[n, dim] item vectors of the candidates in a space, gathered once."""
        vectors = self._vectors.get(name)
        if vectors is None:
            vectors = self._vectors[name] = space.vectors(self.rows)
        return vectors


#: Named parts of the candidates' scores, [n] each. A score is the sum of its parts.
Parts = dict[str, Floats]


class ConfiguredStrategy(NamedTuple):
    """A strategy with prepared options.

    Attributes:
        strategy: The strategy.
        options: What its queries carry; the same object for equal options, so that a batch can be grouped by it.
    """

    strategy: Strategy
    options: Any


class Explanation(msgspec.Struct, frozen=True, eq=False):
    """Why items are recommended.

    Attributes:
        parts: Parts of their scores.
        contributions: [rows, behaviours] what each behaviour adds to a score; `None` where the strategy cannot tell.
        facts: Further facts about each row, by name; `None` without any.
        is_approximate: Whether the contributions are approximate: they need not add up to the score.
    """

    parts: Parts
    contributions: Floats | None = None
    facts: list[dict[str, Any]] | None = None
    is_approximate: bool = False


class Strategy(ABC):
    """Proposes candidates and scores them; one instance serves all batches, one batch at a time.

    Class attributes:
        Options: Type of its options.
        per_request: Options that a request may set; the server's settings can narrow their values.
        is_personal: Whether it needs a usable profile; a request without one gets the fallback strategy.
        is_ranked: Whether `candidates` are ordered by score.
        is_filled_up: Whether the fallback strategy fills its slates where it proposes too few items.
        answers_cold: Whether it can also answer without a usable profile.
        is_selector: Whether it only selects the strategy that answers each query, and proposes nothing itself.
        takes_components: Whether it is made with `(name, resolve, defaults)`: what finds other strategies, and the
            server's options. Others are made with their name alone.
        needs_texts: Whether the texts of a profile must be encoded first.
        asks_models: Whether it has a `pending` of its own.
        counts: Statistics of the log that it reads.
        for_new_items: Options with which it ranks items that nobody has interacted with, in the places that the setting
            `young_share` keeps for them; `None` where it does not.
        grid: Options that an evaluation chooses from, on validation data.

    Attributes:
        name: Name in requests and settings.
    """

    Options: ClassVar[type[msgspec.Struct]] = Options
    per_request: ClassVar[frozenset[str]] = frozenset()
    is_personal: ClassVar[bool] = True
    is_filled_up: ClassVar[bool] = False
    is_ranked: bool = True
    answers_cold: bool = False
    is_selector: ClassVar[bool] = False
    takes_components: ClassVar[bool] = False
    needs_texts: bool = False
    asks_models: bool = False
    counts: frozenset[Count] = frozenset()
    for_new_items: ClassVar[Mapping[str, Any] | None] = None
    grid: Sequence[Mapping[str, Any]] = ({},)

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.asks_models = cls.pending is not Strategy.pending

    def __init__(self, name: str) -> None:
        self.name = name

    def prepare(self, options: Any) -> Any:
        """Turn validated options into what queries carry as `options`; by default the options themselves.

        Raises:
            RequestError: The options cannot be used.
        """
        return options

    def trainings(self, options: Any) -> frozenset[str]:
        """Names of the trained spaces and matrices that it reads, with prepared options."""
        return frozenset()

    def lacking(self, data: Data, options: Any) -> RequestError | None:
        """Why the strategy cannot answer yet, such as a missing training; `None` when it can."""
        return None

    def pending(self, query: Query) -> ModelCall | None:
        """The model call that a query waits for; `None` where it waits for none.

        The result of each input is put into `query.kept` under that input. No other method of the strategy is called
        before, apart from `lacking`.
        """
        return None

    def cold(self, queries: Sequence[Query]) -> list[RequestError | None]:
        """[queries] why a profile is too thin for this strategy; `None` for a profile that is usable."""
        return [None] * len(queries)

    def selected(self, queries: Sequence[Query]) -> list[ConfiguredStrategy | RequestError]:
        """[queries] the strategy that answers each, or why none can; only asked of a selector."""
        raise NotImplementedError

    @abstractmethod
    def candidates(self, queries: Sequence[Query], n: Sequence[int]) -> list[Rows]:
        """About n rows for each query that its `spec` allows; best first where `is_ranked`.

        Args:
            queries: At least one; none is cold.
            n: [queries] candidates wanted; more than `spec.n` where rules choose among them.
        """

    @abstractmethod
    def score(self, queries: Sequence[Query], candidates: Sequence[Candidates]) -> list[Parts]:
        """Scores of each query's candidates, as named parts; the rows may come from elsewhere, such as pins."""

    def sources(self, query: Query, n: int) -> dict[str, Rows]:
        """The rows that each of its parts proposes, by name; empty where it has no parts. For walks alone."""
        return {}

    def explain(self, queries: Sequence[Query], picks: Sequence[Candidates]) -> list[Explanation]:
        """Why the chosen rows of each query are recommended."""
        return [Explanation(parts) for parts in self.score(queries, picks)]

    def std(self, queries: Sequence[Query]) -> Floats:
        """[queries] standard deviation of the scores over the catalogue, by default estimated from a sample."""
        view = queries[0].data.view
        rows = np.flatnonzero(view.available)
        sample = rows[:: max(1, -(-len(rows) // _SAMPLE))]
        scored = self.score(queries, [Candidates(sample) for _ in queries])
        return np.array([float(total(parts, len(sample)).std()) if len(sample) else 0.0 for parts in scored])


def total(parts: Parts, n: int) -> Floats:
    """[n] the sum of the parts; of a single part itself, so it must not be written to."""
    first, *others = parts.values() or [np.zeros(n)]
    return sum(others, start=first)


def distinct_rows(lists: Sequence[Rows]) -> Rows:
    """The rows of several lists, each once, in the order of their first occurrence."""
    return np.array(list(dict.fromkeys(np.concatenate(lists).tolist())), np.int64) if lists else np.empty(0, np.int64)


def behaviour_vectors(space: SpaceView, profiles: Sequence[Profile]) -> Vectors:
    """[users, behaviours, dim] vectors in the space `text` of at least one profile, all of equal length.

    They are zeros for skipped items and for texts that are not encoded.
    """
    rows = np.array([profile.rows for profile in profiles])
    vectors = space.vectors(rows)
    if rows.min(initial=0) < 0:
        vectors[rows < 0] = 0.0
        for user_vectors, profile in zip(vectors, profiles, strict=True):
            for position, vector in profile.vectors.items():
                user_vectors[position] = vector
    return vectors
