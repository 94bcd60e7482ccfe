"""The walk of a request: what each stage of a recommendation did, and why an item is or is not in the slate."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from recserve_client.contract.ids import ItemId

#: What became of an item.
Verdict = Literal[
    "in_slate",
    "later_page",
    "not_in_catalogue",
    "unavailable",
    "filtered",
    "excluded",
    "seen",
    "not_proposed",
    "min_score",
    "outranked",
    "buried",
    "group_limit",
    "diversity",
    "displaced",
]


class Walk(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Asks for the walk of a request.

    Attributes:
        items: Ids of items to explain: why each is or is not in the slate.
        recommendation_id: Works out the walk of the request that led to this recommendation, in place of a history or a
            `user_id`. The server holds the newest requests whose answers it logged. The walk is of now: catalogue, log
            and what was drawn at random may have changed since. The answer has no history.
    """

    items: Annotated[list[ItemId], Meta(max_length=20)] = []
    recommendation_id: Annotated[str, Meta(max_length=64)] = ""


class WalkStage(Struct, frozen=True, gc=False):
    """A stage of a recommendation.

    Attributes:
        name: resolve, queue, encode, candidates, score, rules or explain. Candidates, score and rules add up to
            `search_us` of the timings. Where the strategy ranks its candidates itself, `score` takes no time.
        took_us: Microseconds that it took for the batch of the request.
        items: Items that are left after it. Absent for the stages before the candidates.
    """

    name: str
    took_us: int
    items: int | UnsetType = UNSET


class WalkSource(Struct, frozen=True, gc=False):
    """Where candidates came from; an item may come from several sources.

    Attributes:
        kind: `strategy` that answers, a `part` of it, such as a strategy of a fusion, the `fallback` strategy that
            fills up, a `quota`, the `pins`, the `new_items`, or the `young` items of the server's `young_share`.
        name: Name of the strategy or the quota; otherwise the kind.
        candidates: Items that it proposed.
        in_slate: Those among them that are in the slate.
        interest: Number of the interest cluster. Absent with `interests: 1`.
    """

    kind: Literal["strategy", "part", "fallback", "quota", "pins", "new_items", "young"]
    name: str
    candidates: int
    in_slate: int
    interest: int | UnsetType = UNSET


class WalkItem(Struct, frozen=True, gc=False):
    """Why an item is or is not in the slate.

    Attributes:
        id: Item id.
        verdict: What became of it.
        why: The same in a sentence.
        sources: Names of the sources that proposed it.
        rank: Its rank among the candidates, by score or interleaved by interests, from 1. Absent where it is none.
        score: Its score with boosts. Absent where the catalogue lacks the item.
        parts: Parts of the score by name, without boosts. Absent where the catalogue lacks the item.
    """

    id: str
    verdict: Verdict
    why: str
    sources: list[str] = []
    rank: int | UnsetType = UNSET
    score: float | UnsetType = UNSET
    parts: dict[str, float] | UnsetType = UNSET


class WalkServed(Struct, frozen=True, gc=False):
    """What answered a request.

    Attributes:
        snapshot: Name of the snapshot.
        trained: Version of each trained space, matrix and model of the snapshot, by name.
        experiments: Version of each running experiment, by name.
    """

    snapshot: str
    trained: dict[str, str]
    experiments: dict[str, str]


class SlateWalk(Struct, frozen=True, gc=False):
    """The walk of a request.

    Attributes:
        asked: Strategy that was asked for. Another one in the slate was selected by it, or is the fallback.
        stages: The stages in their order.
        sources: Where the candidates came from.
        items: The items of `Walk.items`, in its order.
        served: What answered.
        cold: Why the profile was not usable. Absent where it was.
    """

    asked: str
    stages: list[WalkStage]
    sources: list[WalkSource]
    items: list[WalkItem]
    served: WalkServed
    cold: str | UnsetType = UNSET
