"""Unpacking of messages that name users: errors say where and what was expected, and never quote what came."""

from __future__ import annotations

from types import UnionType
from typing import Generic, TypeVar

import msgspec

from recserve_client.contract.errors import ErrorKind
from recserve_client.contract.packing import RequestError

M = TypeVar("M", bound=msgspec.Struct)


class PrivateUnpacker(Generic[M]):
    """As `recserve_client.contract.Unpacker`, for messages in which any value may be a user id."""

    def __init__(self, message_type: type[M] | UnionType) -> None:
        """
        Args:
            message_type: A message, or a union of messages that are told apart by a tag.
        """
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(message_type)

    def __call__(self, raw: bytes | msgspec.Raw) -> M:
        """Decode JSON bytes.

        Raises:
            RequestError: Not UTF-8, not JSON, nested too deeply, or not of this type.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            raise RequestError(ErrorKind.INVALID_REQUEST, _without_names(str(error))) from None
        except msgspec.DecodeError as error:
            raise RequestError(ErrorKind.INVALID_JSON, str(error)) from None
        except UnicodeDecodeError:
            raise RequestError(ErrorKind.INVALID_JSON, "not UTF-8") from None
        except RecursionError:
            raise RequestError(ErrorKind.INVALID_JSON, "nested too deeply") from None


def _without_names(message: str) -> str:
    """msgspec quotes the names of unknown fields and values of tags, which come from the caller."""
    if "unknown field" in message:
        return "a field that is not known; see the protocol for those that are"
    if "Invalid value" in message:
        return "`op` is none of those that are known; see the protocol"
    return message
