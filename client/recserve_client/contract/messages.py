"""The packed messages: JSON documents with these types, one per BYTES element.

Every request refuses unknown names, so a misspelt option is an error and not a silent default. `gc=False`: messages
hold no cycles, so the garbage collector need not look at them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from recserve_client.contract.filters import Filter
from recserve_client.contract.ids import ItemId
from recserve_client.contract.slate_options import SlateOptions

Weight = Annotated[float, Meta(ge=-1e6, le=1e6, description="Finite; a negative weight pushes away.")]


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
        cursor: The `cursor` of the page before; none = the first page. The rest of the request stays the same.
    """

    size: Annotated[int, Meta(ge=1, le=1000)]
    cursor: Annotated[str, Meta(max_length=256)] | None = None


class RecommendRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for a slate.

    Attributes:
        history: The weighted behaviours.
        k: Number of items wanted.
        exclude: Item ids that must not be in the slate; ids that the catalogue lacks are no error here.
        exclude_history: Whether the items of the history stay out of the slate.
        ef: Width of the HNSW search for this request; none = the one chosen by measurement when the index was built.
        fields: Fields of the items to return with them.
        explain: Whether each item comes with the contribution of every behaviour.
        on_unknown: What an item id of the history that the catalogue lacks does: refuse the request, or be skipped.
        min_revision: Answer from this revision of the catalogue or a later one; where it is not there yet the request
            waits, and is refused as `stale_revision` when the server's time for that is over.
        where: Only items that match this filter are recommended.
        slate: How the slate is made of the candidates; none = by score.
        count: Whether to count the items that match `where` and are available.
        page: Answer with a part of the `k` items, and a cursor for the next part; none = with all.
        encoder: Fingerprint of the encoder that made the vectors of the history, as `embed` told it. Where another one
            is served, a vector with a text beside it is made anew from that, and one without is refused as
            `invalid_request`. Empty = not checked.
    """

    history: list[Behaviour]
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


class RecommendTimings(Struct, frozen=True, gc=False):
    """Microseconds spent on the batch that this request was answered in.

    Attributes:
        queue_us: From the moment the model received the request until work on it began, and later until a thread was
            free for it (Triton's own queue is in its metric nv_inference_queue_duration_us).
        resolve_us: Decoding the request, looking up item ids and known texts.
        encode_us: Tokenising and encoding the texts that were not known.
        search_us: User vectors and the search of the index.
        explain_us: Contributions, fields and the final scores.
        engine: What searched the index: hnsw, scan, exact or milvus.
    """

    queue_us: int
    resolve_us: int
    encode_us: int
    search_us: int
    explain_us: int
    engine: str = ""


class Shares(Struct, frozen=True, omit_defaults=True, gc=False):
    """What an item's score is made of, for a user by id; with the boosts the four add up to the score.

    Attributes:
        text: Of the similarity of its texts; with the next one the sum of the contributions.
        item_to_item: Of what users who had to do with the history's items also turned to.
        popularity: Of how many turned to it lately.
        new: Of its age.
    """

    text: float = 0.0
    item_to_item: float = 0.0
    popularity: float = 0.0
    new: float = 0.0


class SlateItem(Struct, frozen=True, gc=False):
    """One recommended item.

    Attributes:
        id: Item id.
        score: cos(u, v), in float32 precision, and the boosts.
        contributions: w_j (F(x_j) . v) / |sum_j w_j F(x_j)|, one for each behaviour of the request, in its order
            (0 for skipped ones); with the boosts they add up to the score. Absent with `explain: false`.
        fields: The fields asked for (null where the item has none). Absent when none were asked for.
        boosts: The share of each boost of the request in the score, in its order. Absent without boosts.
        rules: Names of the pins, bury rules and quotas that moved the item here. Absent when none did.
        shares: What the score is made of. Absent where the contributions and boosts alone are the score.
        interest: Number of the interest of the user that it comes from. Absent where they were not asked for.
        explored: Whether it was drawn to learn of it. Absent without exploration.
        propensity: The probability with which it got its place. Absent without exploration: it is 1.
    """

    id: str
    score: float
    contributions: list[float] | UnsetType = UNSET
    fields: dict[str, Any] | UnsetType = UNSET
    boosts: list[float] | UnsetType = UNSET
    rules: list[str] | UnsetType = UNSET
    shares: Shares | UnsetType = UNSET
    interest: int | UnsetType = UNSET
    explored: bool | UnsetType = UNSET
    propensity: float | UnsetType = UNSET


class Slate(Struct, frozen=True, gc=False):
    """The answer to a `RecommendRequest`: the best items first.

    Attributes:
        recommendation_id: New for every answer; interactions name it to say what led to them.
        items: At most k (or a page of them); fewer only when the catalogue has no more that are allowed.
        unknown: Item ids of the history that were skipped (`on_unknown: ignore`).
        revision: Revision of the catalogue that was searched.
        encoder: Fingerprint of the encoder.
        timings: Where the time went.
        count: Number of items that match the filter and are available, banned ones too. Absent when not asked for.
        cursor: Asks for the next page. Absent on the last one, and without `page`.
    """

    recommendation_id: str
    items: list[SlateItem]
    unknown: list[str]
    revision: int
    encoder: str
    timings: RecommendTimings
    count: int | UnsetType = UNSET
    cursor: str | UnsetType = UNSET


class EmbedRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for the vectors of texts (in the order given)."""

    texts: list[str]


class EmbedTimings(Struct, frozen=True, gc=False):
    """Microseconds spent on the batch that this request was answered in; as in `RecommendTimings`."""

    queue_us: int
    resolve_us: int
    encode_us: int


class EmbedResponse(Struct, frozen=True, gc=False):
    """Unit vectors of the texts.

    Attributes:
        vectors: base64 of `count` x `dim` little-endian float32 values, row by row.
        count: Number of texts.
        dim: Length of a vector.
        encoder: Fingerprint of the encoder.
        timings: Where the time went.
    """

    vectors: str
    count: int
    dim: int
    encoder: str
    timings: EmbedTimings
