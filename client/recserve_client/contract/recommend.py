"""The packed messages of the model `recommend`: JSON documents with these types, one per BYTES element.

Every request refuses unknown names, so a misspelt option is an error and not a silent default. `gc=False`: messages
hold no cycles, so the garbage collector need not look at them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from recserve_client.contract.filters import Filter
from recserve_client.contract.ids import ItemId
from recserve_client.contract.slate_options import Recency, SlateOptions

Weight = Annotated[float, Meta(ge=-1e6, le=1e6, description="Finite; a negative weight pushes away.")]
TypeName = Annotated[str, Meta(min_length=1, max_length=32)]
ContextText = Annotated[str, Meta(max_length=256)]
StrategyName = Annotated[str, Meta(max_length=64)]


class Behaviour(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One weighted behaviour of a history: an item id, a text, or a text with its vector.

    Attributes:
        item: Id of an item of the catalogue; its item vector is used.
        text: Free text; the encoder turns it into a vector.
        vector: base64 of `dim` little-endian float32 values; given alone or beside `text`, it is used as it is
            (after L2 normalisation).
        weight: w_j in u = normalise(sum_j w_j F(x_j)).
    """

    item: ItemId | None = None
    text: str | None = None
    vector: str | None = None
    weight: Weight = 1.0


class Page(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Which part of a ranking of `k` items to answer with.

    Attributes:
        size: Items of a page.
        cursor: The `cursor` of the page before; `None` for the first page. The rest of the request stays the same.
    """

    size: Annotated[int, Meta(ge=1, le=1000)]
    cursor: Annotated[str, Meta(max_length=256)] | None = None


class Explore(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Give some of the last places of a slate to other candidates, so that something is learned of them.

    Of k places the last floor(at_most * k) take part, but not those that rules filled. Each of them shows, with the
    probability epsilon, one of the next candidates of the ranking, instead of its own item.

    Attributes:
        kind: Which candidates: `epsilon` = drawn evenly; `thompson` = of each one a rate of clicks is drawn from
            Beta(a + clicks, b + impressions - clicks), and those with the largest draws are shown, in their order. The
            server counts both from its log of impressions, and has a and b in its settings. Of this kind 50 places
            take part at most.
        epsilon: Probability that a place is used to explore.
        at_most: Largest share of exploratory items in the slate.
        pool: Candidates after the slate that are drawn from.
        seed: The same request with the same seed draws the same; `None` draws anew.
    """

    kind: Literal["epsilon", "thompson"] = "epsilon"
    epsilon: Annotated[float, Meta(ge=0, le=1)] = 0.1
    at_most: Annotated[float, Meta(ge=0, le=0.5)] = 0.2
    pool: Annotated[int, Meta(ge=1, le=500)] = 50
    seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class RecommendRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for a slate, from a history or for a user by id.

    The long-term history of a user is the newest 500 interactions, weighted by the server's rules. Of a session with
    weights r_i and a long-term history with weights w_j, both not empty, the history is
    mix * r_i / sum |r| and (1 - mix) * w_j / sum |w|; otherwise the weights stay as they are. Stated interests come on
    top: together they are the part p = n0 / (n0 + n) of the history, n = the long-term behaviours, n0 = 5; the rest is
    the part 1 - p. Items that the catalogue lacks are skipped in it.

    Attributes:
        history: The weighted behaviours; for a request without `user_id`.
        k: Number of items wanted.
        exclude: Item ids that must not be in the slate; ids that the catalogue lacks are no error here.
        exclude_history: Whether the items of `history` stay out of the slate.
        ef: Width of the HNSW search for this request; `None` takes the one measured when the index was built.
        fields: Fields of the items to return with them.
        explain: Whether each item comes with the parts of its score and the contribution of every behaviour, and the
            answer for a user with the history they refer to.
        on_unknown: What an item id of `history` that the catalogue lacks does: refuse the request, or be skipped.
        min_revision: Answer from this revision of the catalogue or a later one; where it is not there yet the request
            waits, and is refused as `stale_revision` when the server's time for that is over.
        where: Only items that match this filter are recommended.
        slate: How the slate is made of the candidates; `None` takes the best scores.
        count: Whether to count the items that match `where` and are available.
        page: Answer with a part of the `k` items, and a cursor for the next part; `None` answers with all.
        encoder: Fingerprint of the encoder that made the vectors of `history`, as `embed` told it. Where another one
            is served, a vector with a text beside it is made anew from that, and one without is refused as
            `invalid_request`. Empty: not checked.
        strategy: Name of what proposes and scores the candidates; empty takes the server's default.
        options: Options of the strategy, by name.
        interests: The most interest clusters that a history is parted into; the number depends on the history.
        context: Of this visit, by name; decides, where the server counts by one of these names, among whom an item is
            popular.
        explore: Whether and how to try other candidates.
        new_items: Add items that are new to the candidates, and this share to the score of every item.
        on_cold: Where nothing usable is known of the user: answer by the server's fallback strategy, or refuse.
            `None` falls back for a user by id, and refuses a history.
        user_id: As in `NewInteraction`. The attributes below are for requests with a user id only.
        session: Behaviours of this visit, recorded or not.
        mix: The part of the session in the history.
        stated: Texts of what the user says to like; they fade as interactions arrive.
        exclude_seen: Whether every item that the user ever had to do with, and those of the session, stay out.
        allow_repeat: Types of interactions; an item of which only such are known may come again.
        variants: For tests: variants by experiment, in place of those that the user was assigned. Such answers are
            marked, and no report counts them.
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


class RecommendTimings(Struct, frozen=True, gc=False):
    """Microseconds spent on the batch that this request was answered in.

    Attributes:
        queue_us: From the moment the model received the request until work on it began, and later until a thread was
            free for it (Triton's own queue is in its metric nv_inference_queue_duration_us).
        resolve_us: Decoding the request, looking up item ids and known texts.
        encode_us: Tokenising and encoding the texts that were not known.
        search_us: User vectors, candidates, their scores and the rules of the slate.
        explain_us: Contributions, fields and the final scores.
        engine: What searched the index: hnsw, scan, exact or milvus.
    """

    queue_us: int
    resolve_us: int
    encode_us: int
    search_us: int
    explain_us: int
    engine: str = ""


class SlateItem(Struct, frozen=True, gc=False):
    """One recommended item.

    Attributes:
        id: Item id.
        score: The sum of `parts` and `boosts`.
        contributions: What each behaviour of the history adds to the score, in its order (0 for skipped ones); see
            docs/explanation/scoring.md. Absent with `explain: false`, and where the strategy cannot tell.
        fields: The fields asked for (null where the item has none). Absent when none were asked for.
        parts: What the score is made of, by name, such as the strategies of a fusion. Absent with `explain: false`, and
            where there is one part: that of the slate's strategy.
        boosts: The share of each boost of the request in the score, in its order. Absent without boosts.
        rules: Names of the pins, bury rules and quotas that moved the item here. Absent when none did.
        interest: Number of the interest cluster that it comes from. Absent where they were not asked for.
        explored: Whether it was drawn to learn of it. Absent without exploration.
        propensity: The probability with which it got its place. Absent without exploration: it is 1.
        facts: What else the strategy says of it, by name. Absent where it says nothing.
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
        weight: As it was used, after mixing.
        origin: Where it came from: the log, the session or `history` of the request, or what the user stated.
        item: Item id, where it is one.
        text: Text, where it is one.
        interest: Number of the interest cluster that it belongs to, from 0. Absent where they were not asked for.
    """

    weight: float
    origin: Literal["long_term", "session", "stated"]
    item: str | None = None
    text: str | None = None
    interest: int | UnsetType = UNSET


class AssignedVariant(Struct, frozen=True, omit_defaults=True, gc=False):
    """The variant of an experiment that an answer was made with.

    Attributes:
        experiment: Its name.
        variant: Name of the variant.
        version: Changes with the variants of the experiment, their weights and their options.
        forced: Whether the request named it.
    """

    experiment: str
    variant: str
    version: str
    forced: bool = False


class Slate(Struct, frozen=True, gc=False):
    """The answer to a `RecommendRequest`: the best items first.

    Attributes:
        recommendation_id: New for every answer; interactions name it to say what led to them.
        items: At most k (or a page of them); fewer only when the catalogue has no more that are allowed.
        unknown: Item ids of the history that were skipped.
        revision: Revision of the catalogue that was searched.
        encoder: Fingerprint of the encoder.
        timings: Where the time went.
        strategy: What made the slate; the server's fallback where nothing usable was known.
        count: Number of items that match the filter and are available, banned ones too. Absent when not asked for.
        cursor: Asks for the next page. Absent on the last one, and without `page`.
        history: What was used of a user by id; contributions stand in its order. Absent without `explain`, and where
            nothing was. For a request with a history it is there where interest clusters were asked for.
        history_rules: Version of the rules that weighted it. Absent without a user id.
        interests: The part of each interest cluster in the history, largest first. Absent where they were not asked
            for.
        experiments: The experiments that the user takes part in. Absent where there are none.
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
