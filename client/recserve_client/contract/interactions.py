"""Packed messages of the model `interactions`: record, read, export and erase the interactions of users."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

#: Most interactions of one request.
MOST_INTERACTIONS = 10_000


class NewInteraction(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """An interaction of a user with an item or a text.

    Attributes:
        user_id: User id, 1 to 256 characters in Unicode's form NFC, without NUL. Only a keyed hash of it is stored.
        type: A lower-case word, such as view, click, cart, purchase, rating, like, dislike, listen or search.
        timestamp: Time in seconds since 1970.
        item: Item id. An item that the catalogue lacks counts as soon as it is added.
        text: A free text, such as a search query; with an item what the user wrote about it, such as a review.
        value: Value of a rating, or of whatever the type measures.
        event_id: Id that is unique for the user; an interaction with the same id is a duplicate. Absent: computed from
            the content.
        recommendation_id: The slate that led to it. It is stored as sent, and joined with the logged answers in reports
            of outcomes.
        duration_s: Duration in seconds.
        price: Price of one piece.
        quantity: Number of pieces.
        session_id: The application's id of the session.
        context: Context values by name, at most 16.
    """

    user_id: str
    type: str
    timestamp: float
    item: str | None = None
    text: str | None = None
    value: float | None = None
    event_id: str | None = None
    recommendation_id: str | None = None
    duration_s: float | None = None
    price: float | None = None
    quantity: float | None = None
    session_id: str | None = None
    context: dict[str, Any] = {}


class RecordInteractions(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="record", gc=False):
    """Record interactions.

    Attributes:
        interactions: `NewInteraction` messages; a refused one does not affect the others.
    """

    interactions: Annotated[list[Raw], Meta(min_length=1, max_length=MOST_INTERACTIONS)]


class ReadHistory(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="history", gc=False):
    """Ask for the weighted history of a user.

    Attributes:
        user_id: As in `NewInteraction`.
        limit: Number of the newest interactions that are read.
    """

    user_id: str
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500


class ExportUser(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="export", gc=False):
    """Ask for all stored data of a user.

    Attributes:
        user_id: As in `NewInteraction`.
    """

    user_id: str


class EraseUser(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="erase", gc=False):
    """Delete all stored data of a user permanently.

    Attributes:
        user_id: As in `NewInteraction`.
    """

    user_id: str


class ModelTrace(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """A trained model that may still hold a trace of an erased user.

    Attributes:
        name: Name of its space.
        version: Version of it.
        until: When it is trained again without the user, in seconds since 1970; `None` where no training is scheduled:
            then until the next `recserve train`.
    """

    name: str
    version: str
    until: float | None = None


class ErasureReceipt(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Receipt of an erasure, which does not name the user; keep it as evidence.

    Attributes:
        erased_at: Time of the erasure, in seconds since 1970.
        interactions: Number of deleted interactions.
        refused_until: Interactions from before the erasure are refused until this time, in seconds since 1970.
        proof: HMAC-SHA256 over the other fields and the user's pseudonym, by the server's key, as 64 hexadecimal
            digits. Only this server can compute it, and verifying it needs the user id.
        models: Trained models that may still hold a trace of the user; the next training leaves the user out.
    """

    erased_at: float
    interactions: int
    refused_until: float
    proof: str
    models: list[ModelTrace] = []


class VerifyErasure(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="verify", gc=False):
    """Ask whether this server made a receipt for this user, and what is stored of the user now.

    Attributes:
        user_id: As in `NewInteraction`.
        receipt: The receipt.
    """

    user_id: str
    receipt: ErasureReceipt


InteractionsRequest = RecordInteractions | ReadHistory | ExportUser | EraseUser | VerifyErasure


class InteractionResult(Struct, frozen=True, omit_defaults=True, gc=False):
    """Result of one interaction.

    Attributes:
        status: `recorded`; `duplicate`, where the user has an interaction with this event id, which stays as it is; or
            `refused`.
        event_id: The given or computed event id; empty where it was refused before one was computed.
        reason: Reason of a refusal: malformed, too_large, invalid_user, invalid_type, invalid_subject,
            invalid_timestamp, in_future, invalid_number, invalid_id, invalid_context or erased.
        detail: The field of a refusal, and its value unless it may name the user.
    """

    status: Literal["recorded", "duplicate", "refused"]
    event_id: str = ""
    reason: str = ""
    detail: str = ""


class InteractionsRecorded(Struct, frozen=True, gc=False):
    """The answer to `RecordInteractions`; recorded interactions are committed and fsynced.

    Attributes:
        results: One for each interaction, in the order of the request.
    """

    results: list[InteractionResult]


class HistoryEntry(Struct, frozen=True, omit_defaults=True, gc=False):
    """One interaction with its weight.

    Attributes:
        type: Interaction type.
        timestamp: Time in seconds since 1970.
        weight: Weight in the history: the product of the factors.
        factors: Factors of the weight, by name.
        item: Item id; absent for a text.
        text: Text; with an item what the user wrote about it. `recommend` multiplies the weight by what it says, where
            a classifier of comments is served.
    """

    type: str
    timestamp: float
    weight: float
    factors: dict[str, float]
    item: str | None = None
    text: str | None = None


class UserHistory(Struct, frozen=True, gc=False):
    """The answer to `ReadHistory`.

    Attributes:
        rules: Version of the history rules.
        read: Number of interactions that were read.
        left_out: Numbers of interactions that were left out, by reason.
        entries: The other interactions with their weights, newest first.
    """

    rules: str
    read: int
    left_out: dict[str, int]
    entries: list[HistoryEntry]


class SeenItem(Struct, frozen=True, gc=False):
    """An item that a user interacted with.

    Attributes:
        item: Item id.
        kind: `bought` (purchase), `rejected` (dislike) or `seen` (any other type).
        timestamp: Time of the last interaction, in seconds since 1970.
    """

    item: str
    kind: str
    timestamp: float


class LoggedAnswer(Struct, frozen=True, omit_defaults=True, gc=False):
    """A logged answer to a user.

    Attributes:
        recommendation_id: Id of the slate.
        timestamp: Time in seconds since 1970.
        items: Item ids, best first.
        strategy: Name of the strategy that made the slate.
        sampling: Share of such answers that is logged.
        revision: Revision of the catalogue.
        encoder: Fingerprint of the encoder.
        rules: Version of the history rules.
        propensities: Propensities of the items; empty where all are 1.
        experiments: Variants by experiment and version.
        forced: Whether the request forced variants.
    """

    recommendation_id: str
    timestamp: float
    items: list[str]
    strategy: str
    sampling: float
    revision: int
    encoder: str
    rules: str = ""
    propensities: list[float] = []
    experiments: dict[str, str] = {}
    forced: bool = False


class UserExport(Struct, frozen=True, gc=False):
    """The answer to `ExportUser`.

    Attributes:
        pseudonym: Pseudonym of the user in the store.
        interactions: Interactions in the order they were recorded, with the given fields of `NewInteraction` but
            `user_id`.
        seen: All items that the user interacted with.
        answers: Logged answers to the user, oldest first.
    """

    pseudonym: str
    interactions: list[dict[str, Any]]
    seen: list[SeenItem]
    answers: list[LoggedAnswer] = []


class ErasureVerified(Struct, frozen=True, gc=False):
    """The answer to `VerifyErasure`.

    Attributes:
        is_valid: Whether this server made this receipt for this user.
        interactions: Number of the user's interactions that are stored now.
        seen: Number of the user's seen items that are stored now.
        answers: Number of logged answers to the user that are stored now.
    """

    is_valid: bool
    interactions: int
    seen: int
    answers: int = 0
