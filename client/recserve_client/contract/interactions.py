"""Packed messages of the model `interactions`: record what users did, and read, export and erase it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct

#: Interactions of one request at most.
MOST_INTERACTIONS = 10_000


class NewInteraction(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    """What a user did; either with an item or with a text.

    Attributes:
        user_id: 1 to 256 characters in Unicode's form NFC, without NUL. It is stored as a keyed hash only.
        type: A lower-case word, such as view, click, cart, purchase, rating, like, dislike, listen or search.
        timestamp: Seconds since 1970.
        item: Item id; it need not be in the catalogue, and counts as soon as it is.
        text: A free text, such as a search.
        value: Of a rating, or whatever else the type measures.
        event_id: Unique for the user: sent again, it is a duplicate. Absent = made from the content.
        recommendation_id: The slate it came from; kept as it comes, and compared with the answers that were logged when
            outcomes are reported.
        duration_s: How long it lasted.
        price: Of one piece.
        quantity: Pieces.
        session_id: As the application calls the session.
        context: At most 16 values by name.
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
        interactions: Of the type `NewInteraction`; one that is refused does not hold up the others.
    """

    interactions: Annotated[list[Raw], Meta(min_length=1, max_length=MOST_INTERACTIONS)]


class ReadHistory(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="history", gc=False):
    """Ask for the weighted history that a user is recommended from.

    Attributes:
        user_id: As in `NewInteraction`.
        limit: Interactions that are read at most: the newest.
    """

    user_id: str
    limit: Annotated[int, Meta(ge=1, le=5000)] = 500


class ExportUser(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="export", gc=False):
    """Ask for all that is held of a user."""

    user_id: str


class EraseUser(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="erase", gc=False):
    """Remove all that is held of a user, for good."""

    user_id: str


class ErasureReceipt(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Says that a user was erased, without naming the user; keep it.

    Attributes:
        erased_at: When, in seconds since 1970.
        interactions: How many went.
        refused_until: Until then, in seconds since 1970, interactions from before the erasure are refused.
        proof: HMAC-SHA256 over the three and the user's pseudonym by the server's key, as 64 hexadecimal digits. Only
            that server can make it, and only who has the user id can have it checked.
    """

    erased_at: float
    interactions: int
    refused_until: float
    proof: str


class VerifyErasure(Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="verify", gc=False):
    """Ask whether a receipt is about this user and from this server, and what is held of the user now."""

    user_id: str
    receipt: ErasureReceipt


InteractionsRequest = RecordInteractions | ReadHistory | ExportUser | EraseUser | VerifyErasure


class InteractionResult(Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of one interaction.

    Attributes:
        status: `duplicate` = the user has one with this event id already, and it stays as it is.
        event_id: Given or made; empty where it was refused before one was made.
        reason: Why it was refused: malformed, too_large, invalid_user, invalid_type, invalid_subject,
            invalid_timestamp, in_future, invalid_number, invalid_id, invalid_context or erased.
        detail: Names the field, and its value unless that is the user.
    """

    status: Literal["recorded", "duplicate", "refused"]
    event_id: str = ""
    reason: str = ""
    detail: str = ""


class InteractionsRecorded(Struct, frozen=True, gc=False):
    """The answer to `RecordInteractions`: what is recorded is committed and fsynced.

    Attributes:
        results: One for each interaction, in the order of the request.
    """

    results: list[InteractionResult]


class HistoryEntry(Struct, frozen=True, omit_defaults=True, gc=False):
    """One interaction with its weight.

    Attributes:
        type: Its type.
        timestamp: Seconds since 1970.
        weight: In the history; the product of the factors.
        factors: By name.
        item: Item id; absent where it is a text.
        text: The text.
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
        rules: Version of the rules.
        read: Interactions that were read.
        left_out: Of these, those without a weight, by reason.
        entries: The others, newest first.
    """

    rules: str
    read: int
    left_out: dict[str, int]
    entries: list[HistoryEntry]


class SeenItem(Struct, frozen=True, gc=False):
    """An item that a user had to do with.

    Attributes:
        item: Item id.
        kind: `bought` (purchase), `rejected` (dislike) or `seen` (any other type).
        timestamp: Last time, in seconds since 1970.
    """

    item: str
    kind: str
    timestamp: float


class LoggedAnswer(Struct, frozen=True, omit_defaults=True, gc=False):
    """An answer that a user got, as it was logged.

    Attributes:
        recommendation_id: Of the slate.
        timestamp: Seconds since 1970.
        items: Item ids, best first.
        strategy: What made the slate.
        sampling: Part of such answers that is logged.
        revision: Of the catalogue.
        encoder: Fingerprint.
        rules: Version of the rules.
        propensities: Of the items, where they are not all 1.
        experiments: Variant by experiment and version.
        forced: Whether the request named the variants.
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
        pseudonym: What stands for the user in the store.
        interactions: In the order they came, with the fields of `NewInteraction` that are given, but the user.
        seen: Every item the user had to do with.
        answers: What was recommended to the user, as far as it was logged, in its order.
    """

    pseudonym: str
    interactions: list[dict[str, Any]]
    seen: list[SeenItem]
    answers: list[LoggedAnswer] = []


class ErasureVerified(Struct, frozen=True, gc=False):
    """The answer to `VerifyErasure`.

    Attributes:
        is_valid: Whether this server gave this receipt for this user.
        interactions: How many are held of the user now.
        seen: Entries of what the user saw that are held now.
        answers: Logged answers to the user that are held now.
    """

    is_valid: bool
    interactions: int
    seen: int
    answers: int = 0
