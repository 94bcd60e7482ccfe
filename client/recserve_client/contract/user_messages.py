"""Packed messages of the model `recommend` for users by id: their history comes from the interaction store."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from recserve_client.contract.ids import ItemId
from recserve_client.contract.messages import Behaviour, Slate


class RecommendForRequest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Ask for a slate for a user by id; told apart from a `RecommendRequest` by its `user_id`.

    The long-term history is the user's newest 500 interactions, weighted by the server's rules. Of a session with
    weights r_i and a long-term history with weights w_j, both not empty, the history is
    mix * r_i / sum |r| and (1 - mix) * w_j / sum |w|; otherwise the weights stay as they are. Items that the catalogue
    lacks are skipped.

    Attributes:
        user_id: As in `NewInteraction`.
        session: Behaviours of this visit, recorded or not.
        mix: The part of the session in the history.
        exclude_seen: Whether every item that the user ever had to do with, and those of the session, stay out.
        k: Number of items wanted.
        exclude: Item ids that must not be in the slate.
        fields: Fields of the items to return with them.
        explain: Whether each item comes with its contributions, and the answer with the history they refer to.
        on_cold: For a user without a usable history: recommend what is popular, or refuse as `empty_history`.
        variants: For tests: variants by experiment, in place of those that the user was assigned. Such answers are
            marked, and no report counts them.
    """

    user_id: str
    session: Annotated[list[Behaviour], Meta(max_length=100)] = []
    mix: Annotated[float, Meta(ge=0, le=1)] = 0.5
    exclude_seen: bool = True
    k: Annotated[int, Meta(ge=1, le=1000)] = 10
    exclude: list[ItemId] = []
    fields: list[str] = []
    explain: bool = True
    on_cold: Literal["popularity", "error"] = "popularity"
    variants: Annotated[dict[str, str], Meta(max_length=20)] = {}


class UsedBehaviour(Struct, frozen=True, omit_defaults=True, gc=False):
    """A behaviour of the history that a slate was made from.

    Attributes:
        weight: As it was used, after mixing.
        origin: Where it came from.
        item: Item id, where it is one.
        text: Text, where it is one.
    """

    weight: float
    origin: Literal["long_term", "session"]
    item: str | None = None
    text: str | None = None


class Popular(Struct, frozen=True, gc=False):
    """Why an item is in a slate of what is popular.

    Attributes:
        item: Item id.
        users: Users who had to do with it within the window, in a way that counts for it.
        window_s: Length of the window.
    """

    item: str
    users: int
    window_s: float


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
        slate: The items. Where they are what is popular, an item's score is the part of all active users who had to
            do with it, and there are no contributions.
        basis: What it was made from.
        rules: Version of the rules that weighted the history.
        history: What was used; contributions stand in its order. Absent without `explain` and for what is popular.
        popular: For what is popular: the reason of each item, in the order of the slate.
        experiments: The experiments that the user takes part in. Absent where there are none.
    """

    slate: Slate
    basis: Literal["history", "popularity"]
    rules: str
    history: list[UsedBehaviour] | UnsetType = UNSET
    popular: list[Popular] | UnsetType = UNSET
    experiments: list[AssignedVariant] | UnsetType = UNSET
