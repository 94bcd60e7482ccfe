"""A request's history, checked and looked up: which behaviours are known, and which texts need the encoder."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from recserve_client.contract import Behaviour, ErrorKind, RecommendRequest, RequestError, nearest, shown
from recserve_client.contract.filters import check_filter
from recserve_client.contract.slate_options import check_slate_options
from recserve_server_ext.batching.request_checks import check_texts, too_large
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.config.server import Limits

if TYPE_CHECKING:
    # Models without a catalogue start sooner without the store and the engines.
    from recserve_server_ext.catalogue.view import RowOf

_LISTED = 10


def check_request(request: RecommendRequest, limits: Limits, fields: tuple[str, ...]) -> None:
    """Check what the types cannot say.

    Raises:
        RequestError: empty_history, too_large, zero_weights, unknown_field or invalid_request.
    """
    history = request.history
    if not history:
        raise RequestError(ErrorKind.EMPTY_HISTORY, "history is []: name at least one item or text")
    if len(history) > limits.history:
        raise too_large("history", len(history), "behaviours", "history", limits.history)
    if len(request.exclude) > limits.exclude:
        raise too_large("exclude", len(request.exclude), "ids", "exclude", limits.exclude)
    for number, behaviour in enumerate(history):
        if (behaviour.item is None) == (behaviour.text is None and behaviour.vector is None):
            raise RequestError(ErrorKind.INVALID_REQUEST, f"$.history[{number}] is {_parts(behaviour)}")
    if not any(behaviour.weight for behaviour in history):
        raise RequestError(ErrorKind.ZERO_WEIGHTS, f"all {len(history)} weights are 0; at least one must not be")
    check_shape(request, limits, fields)


def check_shape(request: RecommendRequest, limits: Limits, fields: tuple[str, ...]) -> None:
    """Check what is asked for, apart from the history.

    Raises:
        RequestError: unknown_field, too_large or invalid_request.
    """
    for name in request.fields:
        if name not in fields:
            raise RequestError(
                ErrorKind.UNKNOWN_FIELD, f"the catalogue has no field {shown(name)}{nearest(name, fields)}"
            )
    if request.where is not None:
        check_filter(request.where, limits.filter)
    if request.slate is not None:
        check_slate_options(request.slate, request.k, limits.filter)


def of_encoder(request: RecommendRequest, encoder: str) -> RecommendRequest:
    """The request without vectors that another encoder made: what has a text beside its vector is encoded again.

    Args:
        request: A checked request.
        encoder: Runtime fingerprint of the encoder that answers.

    Raises:
        RequestError: invalid_request: a behaviour has nothing but such a vector.
    """
    if request.encoder in ("", encoder):
        return request
    history = []
    for number, behaviour in enumerate(request.history):
        if behaviour.vector is not None and behaviour.text is None:
            raise RequestError(
                ErrorKind.INVALID_REQUEST,
                f"$.history[{number}].vector was made by encoder {shown(request.encoder)}, {encoder} is served: "
                "make it anew with `embed`, or send the text beside it",
            )
        history.append(behaviour if behaviour.vector is None else replace(behaviour, vector=None))
    return replace(request, history=history)


def _parts(behaviour: Behaviour) -> str:
    named = [name for name in ("item", "text", "vector") if getattr(behaviour, name) is not None]
    found = " and ".join(named) if named else "without content"
    return f"{found}: give either an item, or a text, or a vector (a vector may have a text beside it)"


@dataclass(slots=True, eq=False)
class History:
    """The known part of one request's history.

    Attributes:
        weights: [behaviours] weights; 0 for skipped ones.
        rows: [behaviours] catalogue row of each item; -1 for texts, vectors and skipped items.
        vectors: Vector of each text or vector behaviour that is known, by its position.
        missing: Position of every text whose vector is not known yet.
        unknown: Item ids that were skipped.
    """

    weights: NDArray[np.float64]
    rows: NDArray[np.int64]
    vectors: dict[int, Vectors]
    missing: dict[int, str]
    unknown: list[str]

    @classmethod
    def of_request(cls, request: RecommendRequest, row_of: RowOf, limits: Limits, dim: int) -> History:
        """Look up the items of a checked request; texts are left as missing.

        Raises:
            RequestError: unknown_item, empty_history (all skipped), too_large or invalid_request (texts, vectors).
        """
        history = request.history
        rows = np.array([row_of.get(b.item, -1) if b.item is not None else -1 for b in history], np.int64)
        found = cls(np.array([b.weight for b in history], np.float64), rows, {}, {}, [])
        if rows.min() < 0:
            found._resolve_others(request, limits, dim)
        return found

    def _resolve_others(self, request: RecommendRequest, limits: Limits, dim: int) -> None:
        skipped: list[int] = []
        for position in np.flatnonzero(self.rows < 0).tolist():
            behaviour = request.history[position]
            if behaviour.vector is not None:
                self.vectors[position] = decode_vector(behaviour.vector, dim, f"$.history[{position}].vector")
            elif behaviour.text is not None:
                self.missing[position] = behaviour.text
            else:
                skipped.append(position)
                self.unknown.append(behaviour.item or "")
        check_texts(list(self.missing.values()), limits, "history")
        if skipped:
            self._skip(skipped, request)

    def _skip(self, positions: list[int], request: RecommendRequest) -> None:
        if request.on_unknown == "error":
            listed = ", ".join(shown(name) for name in self.unknown[:_LISTED])
            more = f" and {len(self.unknown) - _LISTED} more" if len(self.unknown) > _LISTED else ""
            raise RequestError(
                ErrorKind.UNKNOWN_ITEM,
                f'not in the catalogue: {listed}{more}; on_unknown="ignore" skips such items',
            )
        self.weights[positions] = 0.0
        if len(positions) == len(request.history):
            raise RequestError(ErrorKind.EMPTY_HISTORY, f"none of the {len(positions)} items is in the catalogue")
        if not self.weights.any():
            raise RequestError(ErrorKind.ZERO_WEIGHTS, "all weights of the known behaviours are 0")


def decode_vector(encoded: str, dim: int, place: str) -> Vectors:
    """A unit vector from base64 of `dim` little-endian float32 values.

    Raises:
        RequestError: Not base64, of another length, not finite or all zero.
    """
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(ErrorKind.INVALID_REQUEST, f"{place} is {shown(encoded)}: not base64") from None
    if len(raw) != 4 * dim:
        raise RequestError(
            ErrorKind.INVALID_REQUEST, f"{place} has {len(raw)} bytes: {4 * dim} are needed ({dim} float32 values)"
        )
    vector = np.frombuffer(raw, "<f4").astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not 1e-30 < norm < 1e30:
        raise RequestError(ErrorKind.INVALID_REQUEST, f"{place} has the length {norm}: it must be finite and not zero")
    return np.asarray(vector / np.float32(norm))
