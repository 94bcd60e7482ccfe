"""Packed messages of the model `recommend`: requests and slates.

Requests refuse unknown names, so that a misspelt option is an error and not a silent default. Messages hold no cycles,
so `gc=False` spares the garbage collector.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from recserve_client.contract.filters import Filter
from recserve_client.contract.ids import ItemId
from recserve_client.contract.packing import AnswerForm
from recserve_client.contract.slate_options import Recency, SlateOptions
from recserve_client.contract.walk import SlateWalk, Walk

Weight = Annotated[float, Meta(ge=-1e6, le=1e6, description="Finite; a negative weight pushes away.")]
TypeName = Annotated[str, Meta(min_length=1, max_length=32)]
ContextText = Annotated[str, Meta(max_length=256)]
StrategyName = Annotated[str, Meta(max_length=64)]
#: A span, as version 00 of W3C Trace Context writes it.
TRACEPARENT: Final = re.compile("00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
TraceParent = Annotated[str, Meta(pattern=f"^({TRACEPARENT.pattern})?$")]


class Behaviour(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One weighted behaviour of a history: an item, perhaps with a text about it, a text, or a vector.

    Attributes:
        item: Id of an item of the catalogue, which stands for its item vector.
        text: Free text, to be encoded. With an item it is what the user wrote about it, such as a review: where a
            classifier of comments is served, it multiplies the weight by what that says.
        vector: base64 of `dim` little-endian float32 values, alone or with its `text`; it is L2-normalised before use.
        weight: w_j in u = normalise(sum_j w_j F(x_j)).
    """

    item: ItemId | None = None
    text: str | None = None
    vector: str | None = None
    weight: Weight = 1.0


class Page(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Page of a ranking of `k` items.

    Attributes:
        size: Items of a page.
        cursor: `cursor` of the page before; `None` for the first page. The rest of the request must stay the same.
    """

    size: Annotated[int, Meta(ge=1, le=1000)]
    cursor: Annotated[str, Meta(max_length=256)] | None = None


class Explore(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Exploration: some of the last places of a slate show other candidates, to learn about them.

    Of k places, the last floor(at_most * k) may explore, apart from those that rules filled. Each shows, with
    probability epsilon, one of the next candidates of the ranking instead of its own item.

    Attributes:
        kind: How candidates are chosen. `epsilon` draws them uniformly. `thompson` draws a click rate of each from
            Beta(a + clicks, b + impressions - clicks), and shows those with the largest draws, in their order. The
            server counts impressions and clicks from its log; a and b are settings. With `thompson` at most 50 places
            may explore.
        epsilon: Probability that a place explores.
        at_most: Largest share of exploring places in the slate.
        pool: Number of candidates after the slate to draw from.
        seed: Seed of the draws, which makes them repeatable; `None` for a new seed.
    """

    kind: Literal["epsilon", "thompson"] = "epsilon"
    epsilon: Annotated[float, Meta(ge=0, le=1)] = 0.1
    at_most: Annotated[float, Meta(ge=0, le=0.5)] = 0.2
    pool: Annotated[int, Meta(ge=1, le=500)] = 50
    seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class RecommendRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for a slate, from a history or for a user by id.

    For a user by id, the long-term history is the newest 500 interactions, weighted by the server's rules. A session
    with weights r_i is mixed with a long-term history with weights w_j: the weights become mix * r_i / sum |r| and
    (1 - mix) * w_j / sum |w|. Where one of the two is empty, the weights of the other stay as they are. Stated
    interests together have the share p = n0 / (n0 + n) of the weight, and the rest has 1 - p; n counts the long-term
    behaviours, and n0 = 5. Items that the catalogue lacks are skipped.

    Attributes:
        history: Weighted behaviours; only for a request without `user_id`. Strategies that look at their order read
            them as oldest first, and so that of `session`.
        k: Number of items wanted.
        exclude: Item ids that must not be in the slate; ids that the catalogue lacks are ignored.
        exclude_history: Whether the items of `history` are excluded from the slate; only without `user_id`.
        ef: Width of the HNSW search; `None` takes the one measured when the index was built.
        fields: Fields of the items to return.
        explain: Whether to return the parts of each score, the contribution of each behaviour and, for a user by id,
            the history that these refer to.
        on_unknown: Whether an item of `history` that the catalogue lacks refuses the request, or is skipped; only
            without `user_id`.
        min_revision: Answer from this revision of the catalogue or a later one. The request waits for it, and is
            refused as `stale_revision` after the server's waiting time.
        where: Recommend only items that match this filter.
        slate: Slate options; `None` ranks by score.
        count: Whether to count the available items that match `where`.
        page: Answer with a page of the `k` items, and a cursor of the next page; `None` answers with all.
        encoder: Fingerprint of the encoder that made the vectors of `history`, as `embed` returned it. Where another
            encoder is served, vectors with a text are encoded again, and a vector without one is refused as
            `invalid_request`. Empty: not checked. Only without `user_id`.
        strategy: Name of the strategy that proposes and scores candidates; empty for the server's default.
        options: Options of the strategy, by name.
        interests: Largest number of interest clusters that the history is split into.
        context: Context of this visit, by name. Popularity is that of this context, where the server counts it.
        explore: Exploration of other candidates; `None` for none.
        new_items: Boost of new items, which also makes the newest ones candidates.
        on_cold: What happens without a usable profile: the server's fallback strategy answers, or the request is
            refused. `None` falls back for a user by id, and refuses a history.
        user_id: User id as in `NewInteraction`.
        session: Behaviours of this visit, recorded or not; only with `user_id`, like all that follow.
        mix: Share of the session in the history.
        stated: Texts of interests that the user stated; their share shrinks as interactions arrive.
        exclude_seen: Whether all items that the user ever interacted with, and those of the session, are excluded.
        allow_repeat: Interaction types; an item that the user had only such interactions with may be recommended again.
        variants: Forces experiment variants, by experiment, for tests. Such answers are marked, and reports do not
            count them.
        now: Moment of the request in seconds since 1970, for replays of a log; `None` for the server's time. What was
            recorded of a later time does not count: in histories, seen items, popularity and counted neighbours.
            Recency is as of then. Trained spaces and the catalogue are those of today. The answer is not logged.
            Refused outside of the server's bounds, which take none by default.
        traceparent: Span of the caller, as the header of that name in W3C Trace Context. A sampled one is traced.
        accept: Form of the answer. `msgpack` is the same slate as MessagePack, in a tenth of the time; a slate with an
            integer beyond 64 bits comes as JSON all the same. JSON begins with the byte `{`, which MessagePack's map
            never does. Over HTTP every answer is JSON.
        walk: Asks for the walk of the request through the stages; `None` for none. Not with a cursor. The answer is not
            logged: it is for who looks on, not for the user.
    """

    history: list[Behaviour] = []
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    exclude: list[ItemId] = []
    exclude_history: bool = True
    ef: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    fields: list[str] = []
    explain: bool = True
    on_unknown: Literal["error", "ignore"] = "error"
    min_revision: Annotated[int, Meta(ge=0)] = 0
    where: Filter | None = None
    slate: SlateOptions | None = None
    count: bool = False
    page: Page | None = None
    encoder: Annotated[str, Meta(max_length=64)] = ""
    strategy: StrategyName = ""
    options: Annotated[dict[str, Any], Meta(max_length=32)] = {}
    interests: Annotated[int, Meta(ge=1, le=8)] = 1
    context: Annotated[dict[str, ContextText], Meta(max_length=16)] = {}
    explore: Explore | None = None
    new_items: Recency | None = None
    on_cold: Literal["fallback", "error"] | None = None
    user_id: str | None = None
    session: Annotated[list[Behaviour], Meta(max_length=100)] = []
    mix: Annotated[float, Meta(ge=0, le=1)] = 0.5
    stated: Annotated[list[str], Meta(max_length=20)] = []
    exclude_seen: bool = True
    allow_repeat: Annotated[list[TypeName], Meta(max_length=32)] = []
    variants: Annotated[dict[str, str], Meta(max_length=20)] = {}
    now: Annotated[float, Meta(ge=0, le=1e11)] | None = None
    traceparent: TraceParent = ""
    accept: AnswerForm = "json"
    walk: Walk | None = None


class RecommendTimings(Struct, frozen=True, gc=False):
    """Microseconds spent on the batch of this request.

    Attributes:
        queue_us: Waiting for model calls, such as those of the encoder, to begin. Triton's own queue is in its metric
            nv_inference_queue_duration_us.
        resolve_us: Decoding requests, looking up users, items and cached texts.
        encode_us: Tokenising and encoding texts that were not cached.
        search_us: User vectors, candidates, scores and slate rules.
        explain_us: Contributions, fields and final scores.
        engine: Engine that searched the index: hnsw, scan, exact or milvus.
    """

    queue_us: int
    resolve_us: int
    encode_us: int
    search_us: int
    explain_us: int
    engine: str = ""


#: Stages of a recommendation in their order, each with its `..._us` in the timings.
STAGES: Final = ("resolve", "queue", "encode", "search", "explain")


class SlateItem(Struct, frozen=True, gc=False):
    """One recommended item.

    Attributes:
        id: Item id.
        score: Score: the sum of `parts` and `boosts`.
        contributions: What each behaviour of the history adds to the score, in the order of the history; 0 for skipped
            ones. See docs/explanation/scoring.md. Absent with `explain: false`, and where the strategy cannot tell.
        fields: The requested fields; null where the item lacks one. Absent where none were requested.
        parts: Parts of the score by name, such as the strategies of a fusion. Absent with `explain: false`, and where
            the only part is the slate's strategy.
        boosts: What each boost of the request adds to the score, in the order of the request. Absent without boosts.
        rules: Names of the pins, bury rules and quotas that moved the item; `young` where the server's `young_share`
            gave it a place, as it is younger than the last training. Absent where none did.
        interest: Number of the interest cluster that the item comes from. Absent with `interests: 1`.
        explored: Whether the item was drawn to explore. Absent without exploration.
        propensity: Probability with which the item got its place. Absent without exploration: it is 1.
        facts: Further facts of the strategy about the item, by name. Absent where there are none.
    """

    id: str
    score: float
    contributions: list[float] | UnsetType = UNSET
    fields: dict[str, Any] | UnsetType = UNSET
    parts: dict[str, float] | UnsetType = UNSET
    boosts: list[float] | UnsetType = UNSET
    rules: list[str] | UnsetType = UNSET
    interest: int | UnsetType = UNSET
    explored: bool | UnsetType = UNSET
    propensity: float | UnsetType = UNSET
    facts: dict[str, Any] | UnsetType = UNSET


class UsedBehaviour(Struct, frozen=True, omit_defaults=True, gc=False):
    """A behaviour of the history that a slate was made from.

    Attributes:
        weight: Weight after mixing.
        origin: `long_term` from the interaction log, `session` from the request, or `stated` by the user.
        item: Item id; absent for a text.
        text: Text; absent for an item.
        interest: Number of its interest cluster, from 0. Absent with `interests: 1`.
    """

    weight: float
    origin: Literal["long_term", "session", "stated"]
    item: str | None = None
    text: str | None = None
    interest: int | UnsetType = UNSET


class AssignedVariant(Struct, frozen=True, omit_defaults=True, gc=False):
    """The variant of an experiment that an answer was made with.

    Attributes:
        experiment: Name of the experiment.
        variant: Name of the variant.
        version: Version of the experiment, which changes with its variants, their weights and their options.
        forced: Whether the request forced the variant.
    """

    experiment: str
    variant: str
    version: str
    forced: bool = False


class Slate(Struct, frozen=True, gc=False):
    """The answer to a `RecommendRequest`: the best items first.

    Attributes:
        recommendation_id: Unique id of the answer; interactions name it to say what led to them.
        items: At most k items, or a page of them; fewer only where no more items are allowed.
        unknown: Skipped items of the history.
        revision: Revision of the catalogue that was searched.
        encoder: Fingerprint of the encoder.
        timings: Time spent on each step.
        strategy: Name of the strategy that made the slate; the fallback's name without a usable profile.
        count: Number of available items that match the filter, excluded ones too. Absent unless requested.
        cursor: Cursor of the next page. Absent on the last page, and without `page`.
        history: Behaviours of a user by id, in the order of the contributions. Absent with `explain: false`, and where
            none were used.
        history_rules: Version of the rules that weighted the history. Absent without `user_id`.
        interests: Share of each interest cluster in the history, largest first. Absent with `interests: 1`.
        experiments: Variants of the experiments that the user takes part in. Absent without any.
        approximate: Whether the contributions are approximate: they need not add up to the score. Absent where they do.
        walk: The walk of the request. Absent unless requested.
    """

    recommendation_id: str
    items: list[SlateItem]
    unknown: list[str]
    revision: int
    encoder: str
    timings: RecommendTimings
    strategy: str = ""
    count: int | UnsetType = UNSET
    cursor: str | UnsetType = UNSET
    history: list[UsedBehaviour] | UnsetType = UNSET
    history_rules: str | UnsetType = UNSET
    interests: list[float] | UnsetType = UNSET
    experiments: list[AssignedVariant] | UnsetType = UNSET
    approximate: bool | UnsetType = UNSET
    walk: SlateWalk | UnsetType = UNSET
