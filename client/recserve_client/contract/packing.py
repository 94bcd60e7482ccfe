"""Packs messages into JSON bytes and unpacks them, with errors that name the path and the offending value."""

from __future__ import annotations

import difflib
import re
import struct
from types import UnionType
from typing import Any, Final, Generic, Literal, TypeVar, get_args

import msgspec

from recserve_client.contract.errors import STATUS_OF, ErrorKind

M = TypeVar("M", bound=msgspec.Struct)
#: Form of an answer on the wire.
AnswerForm = Literal["json", "msgpack"]


def _plain(value: Any) -> Any:
    """What a data frame holds, as JSON has it: numpy's scalars and arrays, its times as seconds since 1970."""
    if isinstance(value, str):
        return str(value)
    if type(value).__module__ == "numpy":
        if value.dtype.kind == "M":
            return value.astype("datetime64[us]").astype("int64").item() / 1e6
        return value.tolist()
    raise TypeError(f"{shown(value)} of type {type(value).__name__} cannot be sent")


_ENCODER: Final = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number")
_MSGPACK: Final = msgspec.msgpack.Encoder()
_PATH: Final = re.compile(r"^(?P<what>.*) - at `(?P<path>\$[^`]*)`$", re.DOTALL)
_UNKNOWN: Final = re.compile(r"unknown field `(?P<name>[^`]*)`", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[]+)|\[(\d+)\]")
_SHOWN: Final = 80


class RequestError(Exception):
    """A refused request, on either side of the wire.

    Attributes:
        kind: Reason of the refusal.
        text: What was wrong, which value, and what to do.
        status: Name of the gRPC status code.
    """

    def __init__(self, kind: ErrorKind, text: str) -> None:
        super().__init__(f"{kind.value}: {text}")
        self.kind = kind
        self.text = text
        self.status = STATUS_OF[kind]


def overloaded(why: str, *, retry_after_ms: int) -> RequestError:
    """The refusal of a server that has too much to do; `recserve_client.contract.retry_after_ms` reads it."""
    return RequestError(ErrorKind.OVERLOADED, f"retry_after_ms={retry_after_ms}; {why}")


def shown(value: object) -> str:
    """A value as messages quote it: its repr, escaped to ASCII and cut to 80 characters."""
    text = ascii(value[: _SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def nearest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """``; did you mean 'x'?`` for the nearest known name, or an empty string."""
    close = difflib.get_close_matches(name[:_SHOWN], known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def pack(message: msgspec.Struct) -> bytes:
    """The JSON bytes of a message.

    Raises:
        RequestError: A string holds a lone surrogate, which UTF-8 cannot encode.
    """
    try:
        return _ENCODER.encode(message)
    except UnicodeEncodeError as error:
        raise RequestError(
            ErrorKind.INVALID_REQUEST,
            f"text with a lone surrogate: {shown(error.object)}; send valid Unicode",
        ) from None
    except TypeError as error:
        raise RequestError(ErrorKind.INVALID_REQUEST, str(error)) from None


def pack_answer(message: msgspec.Struct, form: AnswerForm) -> bytes:
    """The bytes of an answer in the wanted form; JSON where it holds an integer that MessagePack cannot express."""
    if form == "msgpack":
        try:
            return _MSGPACK.encode(message)
        except OverflowError:
            pass
    return pack(message)


def bytes_element(content: bytes) -> bytes:
    """One element of a BYTES tensor on the wire: little-endian 32-bit length, then the content."""
    return struct.pack("<I", len(content)) + content


class AnswerReader(Generic[M]):
    """Decodes answers of one type, whichever form they have; it holds compiled decoders, so create it once."""

    def __init__(self, message_type: type[M]) -> None:
        self._json = msgspec.json.Decoder(message_type)
        self._msgpack = msgspec.msgpack.Decoder(message_type)

    def __call__(self, raw: bytes) -> M:
        """Decode an answer. Raises msgspec.MsgspecError or UnicodeDecodeError for anything else."""
        return self._json.decode(raw) if raw.startswith(b"{") else self._msgpack.decode(raw)


class Unpacker(Generic[M]):
    """Decodes and validates one type of message; it holds a compiled decoder, so create it once."""

    def __init__(self, message_type: type[M] | UnionType) -> None:
        """
        Args:
            message_type: A message type, or a tagged union of them.
        """
        self._decoder: msgspec.json.Decoder[M] = msgspec.json.Decoder(message_type)
        members = get_args(message_type) or (message_type,)
        self._names = tuple(field.encode_name for member in members for field in msgspec.structs.fields(member))

    def __call__(self, raw: bytes | msgspec.Raw, *, private: bool = False) -> M:
        """Decode JSON bytes.

        Args:
            raw: The message.
            private: Whether the message may name a user; errors then name the path, and quote no value.

        Raises:
            RequestError: Not UTF-8, not JSON, nested too deeply, or not of this type.
        """
        try:
            return self._decoder.decode(raw)
        except msgspec.ValidationError as error:
            text = _without_values(str(error)) if private else _explain(str(error), bytes(raw), self._names)
            raise RequestError(ErrorKind.INVALID_REQUEST, text) from None
        except msgspec.DecodeError as error:
            quoted = "" if private else f"; it begins {shown(bytes(raw)[:40])}"
            raise RequestError(ErrorKind.INVALID_JSON, f"{error}{quoted}") from None
        except UnicodeDecodeError as error:
            bad = "" if private else f": {shown(bytes(error.object[error.start : error.start + 8]))}"
            raise RequestError(ErrorKind.INVALID_JSON, f"not UTF-8{bad}") from None
        except RecursionError:
            text = "nested too deeply (a filter has at most limits.filter.depth levels)"
            quoted = "" if private else f"; it begins {shown(bytes(raw)[:40])}"
            raise RequestError(ErrorKind.INVALID_JSON, text + quoted) from None


def _without_values(message: str) -> str:
    """msgspec's message without names of unknown fields and values of tags, which come from the caller."""
    if "unknown field" in message:
        return "a field that is not known; see the protocol for those that are"
    if "Invalid value" in message:
        return "`op` is none of those that are known; see the protocol"
    return message


def _explain(message: str, raw: bytes, names: tuple[str, ...]) -> str:
    """msgspec's message with the value at its path added."""
    if unknown := _UNKNOWN.search(message):
        name = unknown["name"]
        plain = f"unknown option {shown(name)}"
        place = _PATH.match(message)
        return f"{plain} at {place['path']}" if place else plain + nearest(name, names)
    match = _PATH.match(message)
    path = match["path"] if match else "$"
    what = match["what"] if match else message
    return f"{path} is {_value_at(raw, path)}: {what[0].lower()}{what[1:]}"


def _value_at(raw: bytes, path: str) -> str:
    try:
        value: Any = msgspec.json.decode(raw)
        for name, index in _STEP.findall(path):
            value = value[name] if name else value[int(index)]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return "not acceptable"
    return shown(value)
