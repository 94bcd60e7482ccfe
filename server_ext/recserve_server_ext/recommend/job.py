"""The state of one accepted request in the pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType, field

from recserve_client.contract import AssignedVariant, RecommendRequest, RequestError
from recserve_client.contract.slate_options import SlateOptions
from recserve_server_ext.attributes.view import Allowed
from recserve_server_ext.common.arrays import NO_ROWS, Floats, Ints, Rows, Vectors
from recserve_server_ext.history.sentiment import Sentiment
from recserve_server_ext.recommend.paging import PagePosition
from recserve_server_ext.recommend.profile import ReportedHistory
from recserve_server_ext.recommend.ranked_items import RankedItems
from recserve_server_ext.strategies.base import Candidates, ConfiguredStrategy, Data, Profile, Query

_NO_SCORES = np.empty(0)
_NO_TEXTS: Sequence[str] = ()


class CandidateList(msgspec.Struct, eq=False):
    """Candidates of one interest cluster, or of the whole history where it is not split.

    Attributes:
        query: The query for the candidates.
        configured: The strategy that answers it.
        cluster: Number of the interest cluster.
        mass: Weight of the cluster in the history.
        found: Rows that its strategy proposed, then those for each quota.
        wanted: Candidates that the strategy was asked for.
        filled: Number of rows, the last ones of the strategy's, that come from the fallback strategy.
        candidates: The candidates.
        scores: [n] their scores.
    """

    query: Query
    configured: ConfiguredStrategy
    cluster: int = 0
    mass: float = 1.0
    found: list[Rows] = field(default_factory=list)
    wanted: int = 0
    filled: int = 0
    candidates: Candidates = field(default_factory=lambda: Candidates(NO_ROWS))
    scores: Floats = field(default_factory=lambda: _NO_SCORES)


class Job(msgspec.Struct, eq=False):
    """One accepted request and what the stages made of it so far; times are in nanoseconds.

    Attributes:
        request: The request, with the options of its experiment variants.
        configured: Its strategy with options.
        data: The catalogue and counts that it is answered from.
        pseudonym: Pseudonym of the user; `None` for a request with a history.
        keys: Fingerprint of the key ring that made the pseudonym.
        variants: Variants of the experiments that the user takes part in.
        history_rules: Version of the rules that weight the user's interactions.
        query: The query for candidates; `None` until the user is looked up.
        history: The history as the answer reports it.
        sentiment: Weighs the comments of the profile; `None` where they do not count.
        options: Slate options, with the server's time where a boost names no `now`.
        rules: Items that match its bury rules and quotas.
        error: Why the request is refused.
        page: The page that its cursor points to; `None` without a cursor.
        cursor: Cursor of the next page.
        split: Candidate lists of the interest clusters and [behaviours] their clusters; `None` until the history is
            split, and where it is not.
        lists: Candidate lists, one for each interest cluster.
        is_plain: Whether the slate is the first k candidates, as the strategy ranks them; for a new ranking.
        cold: Why the profile is not usable, and the fallback strategy answers; `None` where it is usable.
        clusters: [behaviours] interest cluster of each behaviour; `None` where the history is not split.
        ranked: Items of the slate; `None` until they are ranked.
        waited_ns: Time spent waiting.
        resolve_ns: Time spent by the batch on decoding and look-ups.
        profile_ns: The part of it for look-ups.
        took_ns: Time spent by the batch on each stage from the candidates to the slate rules.
        encode_ns: Time spent by the batch on calls to the encoder and to networks.
        size_bytes: Size of the packed request.
    """

    request: RecommendRequest
    configured: ConfiguredStrategy
    data: Data
    pseudonym: str | None = None
    keys: str = ""
    variants: list[AssignedVariant] = field(default_factory=list)
    history_rules: str | UnsetType = UNSET
    query: Query | None = None
    history: ReportedHistory | None = None
    sentiment: Sentiment | None = None
    options: SlateOptions | None = None
    rules: Sequence[Allowed] = ()
    error: RequestError | None = None
    page: PagePosition | None = None
    cursor: str | UnsetType = UNSET
    split: tuple[list[CandidateList], Ints] | None = None
    lists: list[CandidateList] = field(default_factory=list)
    is_plain: bool = False
    cold: RequestError | None = None
    clusters: Ints | None = None
    ranked: RankedItems | None = None
    waited_ns: int = 0
    resolve_ns: int = 0
    profile_ns: int = 0
    took_ns: Mapping[str, int] = field(default_factory=dict)
    encode_ns: int = 0
    size_bytes: int = 0

    def start(self) -> None:
        """Begin the pipeline with the candidate lists of the history; a job may run again after a fault."""
        assert self.query is not None
        self.lists = [CandidateList(self.query, self.configured)]
        self.cold, self.clusters, self.ranked = None, None, None
        if self.split is not None:
            self.lists, self.clusters = list(self.split[0]), self.split[1]

    @property
    def is_cold(self) -> bool:
        """Whether the fallback strategy answers, for want of a usable profile."""
        return self.cold is not None

    @property
    def profile(self) -> Profile:
        """Profile of the user; only with a query."""
        assert self.query is not None
        return self.query.profile

    @property
    def wanted(self) -> int:
        """Length of the ranked list: the slate, and the candidates to explore after it."""
        explore = self.request.explore
        return self.request.k + (explore.pool if explore is not None else 0)

    @property
    def falls_back(self) -> bool:
        """Whether the fallback strategy answers where the profile is not usable."""
        on_cold = self.request.on_cold
        return on_cold == "fallback" or (on_cold is None and self.pseudonym is not None)

    @property
    def waiting_texts(self) -> Sequence[str]:
        """Texts of the profile that must be encoded before the request can be answered, each once."""
        if self.query is None or self.error is not None:
            return _NO_TEXTS
        profile = self.query.profile
        if not profile.comments and not profile.missing:
            return _NO_TEXTS
        needs_texts = self.configured.strategy.needs_texts or self.request.interests > 1
        texts = [*profile.comments.values(), *(profile.missing.values() if needs_texts else ())]
        return list(dict.fromkeys(texts))

    def take_vectors(self, vector_of: Mapping[str, Vectors]) -> None:
        """Take the vectors of texts of the profile, as far as they are there."""
        if self.query is None:
            return
        profile = self.profile
        for position, text in list(profile.missing.items()):
            if (vector := vector_of.get(text)) is not None:
                profile.vectors[position] = vector
                del profile.missing[position]

    def take_sentiment(self, sentiment: Sentiment | None) -> None:
        """Take what weighs the comments of the profile, if there are any; without it they do not count."""
        if self.query is not None and self.query.profile.comments:
            self.sentiment = sentiment
            if sentiment is None:
                self.query.profile.comments = {}

    def weigh(self, factors: Mapping[int, float]) -> None:
        """Multiply weights of the history by what their comments say, by position."""
        profile = self.profile
        profile.multiply(factors)
        profile.comments = {n: text for n, text in profile.comments.items() if n not in factors}
        if self.history is not None:
            self.history.weights = self.history.weights.copy()
            self.history.weights[list(factors)] *= list(factors.values())

    @property
    def cluster_shares(self) -> list[float]:
        """Share of each candidate list's interest cluster in the history."""
        if len(self.lists) == 1:
            return [1.0]
        total = sum(candidate_list.mass for candidate_list in self.lists)
        return [candidate_list.mass / total for candidate_list in self.lists]
