"""Packed messages of the model `recommend` for users by id: their history comes from the interaction store."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from recserve_client.contract.filters import Filter
from recserve_client.contract.ids import ItemId
from recserve_client.contract.messages import Behaviour, Slate
from recserve_client.contract.slate_options import Recency, SlateOptions

TypeName = Annotated[str, Meta(min_length=1, max_length=32)]
ContextText = Annotated[str, Meta(max_length=256)]
#: The last 1, 7 or 30 days, all of the log, or all of these mixed.
PopularWindow = Literal["day", "week", "month", "all", "mixed"]


class Explore(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Give some of the last places of a slate to other candidates, so that something is learned of them.

    Of k places the last floor(at_most * k) take part, but not those that rules filled. Each of them shows, with the
    probability epsilon, one of the next candidates of the ranking, instead of its own item.

    Attributes:
        kind: Which candidates: `epsilon` = drawn evenly; `thompson` = of each one a rate of clicks is drawn from
            Beta(a + clicks, b + impressions - clicks), and those with the largest draws are shown, in their order. The
            server counts both from its log of answers, and has a and b in its settings. Of this kind 50 places take
            part at most.
        epsilon: Probability that a place is used to explore.
        at_most: Largest share of exploratory items in the slate.
        pool: Candidates after the slate that are drawn from.
        seed: The same request with the same seed draws the same; none = drawn anew.
    """

    kind: Literal["epsilon", "thompson"] = "epsilon"
    epsilon: Annotated[float, Meta(ge=0, le=1)] = 0.1
    at_most: Annotated[float, Meta(ge=0, le=0.5)] = 0.2
    pool: Annotated[int, Meta(ge=1, le=500)] = 50
    seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None


class RecommendForRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for a slate for a user by id; told apart from a `RecommendRequest` by its `user_id`.

    The long-term history is the user's newest 500 interactions, weighted by the server's rules. Of a session with
    weights r_i and a long-term history with weights w_j, both not empty, the history is
    mix * r_i / sum |r| and (1 - mix) * w_j / sum |w|; otherwise the weights stay as they are. Stated interests come on
    top: all of them together are the part p = n0 / (n0 + n) of the history, n = the long-term behaviours, n0 = 5; the
    rest is the part 1 - p. Items that the catalogue lacks are skipped.

    Attributes:
        user_id: As in `NewInteraction`.
        session: Behaviours of this visit, recorded or not.
        mix: The part of the session in the history.
        stated: Texts of what the user says to like; they fade as events arrive.
        exclude_seen: Whether every item that the user ever had to do with, and those of the session, stay out.
        allow_repeat: Types of interactions; an item of which only such are known may come again.
        k: Number of items wanted.
        exclude: Item ids that must not be in the slate.
        fields: Fields of the items to return with them.
        explain: Whether each item comes with its contributions, and the answer with the history they refer to.
        on_cold: For a user without a usable history: recommend what is popular, or refuse as `empty_history`.
        strategy: `text` = by cos(u, v); `blend` = by item-to-item counts, text and recent popularity.
        interests: The most interests that a history is parted into; how many there are depends on the history.
        context: Of this visit; decides, where the server counts by one of these names, among whom an item is popular.
        popular_window: Within which time an item is popular: the last 1, 7 or 30 days, all of the log, or `mixed`: a
            shorter window counts the more, the more users it has.
        explore: Whether and how to try other candidates; none = not.
        new_items: Add items that are new to the candidates, and this share to the score of every item; none = not.
        ef: As in `RecommendRequest`, and so the next four.
        min_revision: The revision to answer from.
        where: Only items that match.
        slate: How the slate is made of the candidates.
        count: Whether to count the items that match.
        variants: For tests: variants by experiment, in place of those that the user was assigned. Such answers are
            marked, and no report counts them.
    """

    user_id: str
    session: Annotated[list[Behaviour], Meta(max_length=100)] = []
    mix: Annotated[float, Meta(ge=0, le=1)] = 0.5
    stated: Annotated[list[str], Meta(max_length=20)] = []
    exclude_seen: bool = True
    allow_repeat: Annotated[list[TypeName], Meta(max_length=32)] = []
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    exclude: list[ItemId] = []
    fields: list[str] = []
    explain: bool = True
    on_cold: Literal["popularity", "error"] = "popularity"
    strategy: Literal["text", "blend"] = "text"
    interests: Annotated[int, Meta(ge=1, le=8)] = 1
    context: Annotated[dict[str, ContextText], Meta(max_length=16)] = {}
    popular_window: PopularWindow = "mixed"
    explore: Explore | None = None
    new_items: Recency | None = None
    ef: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    min_revision: Annotated[int, Meta(ge=0)] = 0
    where: Filter | None = None
    slate: SlateOptions | None = None
    count: bool = False
    variants: Annotated[dict[str, str], Meta(max_length=20)] = {}


class UsedBehaviour(Struct, frozen=True, omit_defaults=True, gc=False):
    """A behaviour of the history that a slate was made from.

    Attributes:
        weight: As it was used, after mixing.
        origin: Where it came from.
        item: Item id, where it is one.
        text: Text, where it is one.
        interest: Number of the interest that it belongs to, from 0. Absent where they were not asked for.
    """

    weight: float
    origin: Literal["long_term", "session", "stated"]
    item: str | None = None
    text: str | None = None
    interest: int | UnsetType = UNSET


class Popular(Struct, frozen=True, gc=False):
    """Why an item is in a slate of what is popular.

    Attributes:
        item: Item id.
        users: Users who had to do with it within the window, in a way that counts for it.
        window_s: Length of the window; none = all of the log. Where windows are mixed, the shortest one with any user.
    """

    item: str
    users: int
    window_s: float | None


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


class UserSlate(Struct, frozen=True, omit_defaults=True, gc=False):
    """The answer to a `RecommendForRequest`.

    Attributes:
        slate: The items. Where they are what is popular, there are no contributions, and an item's score with the
            strategy `text` is the part of all active users who had to do with it.
        basis: What it was made from.
        rules: Version of the rules that weighted the history.
        history: What was used; contributions stand in its order. Absent without `explain` and for what is popular.
        popular: For what is popular: the reason of each item, in the order of the slate.
        interests: The part of each interest in the history, largest first. Absent where they were not asked for.
        experiments: The experiments that the user takes part in. Absent where there are none.
    """

    slate: Slate
    basis: Literal["history", "popularity"]
    rules: str
    history: list[UsedBehaviour] | UnsetType = UNSET
    popular: list[Popular] | UnsetType = UNSET
    interests: list[float] | UnsetType = UNSET
    experiments: list[AssignedVariant] | UnsetType = UNSET
