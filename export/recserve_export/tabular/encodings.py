"""The encoding of a text file, guessed from all of its bytes."""

from __future__ import annotations

import codecs
import re
from typing import IO, Final, NamedTuple

from recserve_export.errors import SourceError

_CHUNK: Final = 1 << 20
#: Bytes of lines that are not ASCII which are looked at to tell 8-bit encodings apart.
_SAMPLE: Final = 1 << 16
_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_VALID: Final = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}|\xed[\x80-\x9f][\x80-\xbf]"
    rb"|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
)
_LETTER: Final = re.compile(rb"[A-Za-z]")
#: With fewer characters beyond ASCII an 8-bit encoding cannot be told from them.
_FEW: Final = 20
#: Share of NUL in one half of the bytes with which a text is UTF-16.
_WIDE: Final = 0.08
#: What no text holds.
_CONTROL: Final = re.compile(r"[\0-\x08\x0e-\x1f\x7f]")
_HIGH: Final = re.compile(rb"[\x80-\xff]+")
_BEYOND_ASCII: Final = re.compile(r"[^\0-\x7f]")
#: Read in the wrong encoding of the West, letters become signs within words, or capitals after small letters.
_ODD: Final = re.compile(
    "(?<=[a-z])[\u00c0-\u00de\u0160\u017d\u0152]|(?<=[^\\W\\d_])[\u201a\u201e\u00a7\u00a4\u0178]"
    "|(?<=[A-Za-z])(?![\u2018\u2019\u00ad\u00b4])[^\\w\\s\0-\x7f](?=[a-z\u00df-\u00ff])|\ufffd|[\x80-\x9f]"
)
#: Share of odd characters up to which a text is taken to be Windows'.
_MOST_ODD: Final = 0.2
#: Of old Macintoshs, and of DOS.
_OTHERS_OF_THE_WEST: Final = ("mac_roman", "cp850")


class Encoding(NamedTuple):
    """An encoding.

    Attributes:
        name: As Python knows it.
        shown: As it is said.
        has_mark: Whether the file begins with a byte order mark.
    """

    name: str
    shown: str
    has_mark: bool


def named_encoding(name: str, head: bytes) -> Encoding:
    """The encoding that was asked for.

    Raises:
        SourceError: Python does not know it.
    """
    try:
        found = codecs.lookup(name).name
    except LookupError as error:
        raise SourceError(f"no encoding {name!r}; some are: utf-8, utf-16, latin-1, cp1252") from error
    has_mark = any(head.startswith(mark) for mark, _ in _MARKS)
    if found == "utf-8" and head.startswith(codecs.BOM_UTF8):
        return Encoding("utf-8-sig", "utf-8", True)
    return Encoding(found, _shown(found), has_mark)


def guess_encoding(stream: IO[bytes]) -> Encoding:
    """The encoding of a text: its byte order mark, UTF-8 where that fits, else the likeliest 8-bit encoding."""
    chunk = stream.read(_CHUNK)
    for mark, name in _MARKS:
        if chunk.startswith(mark):
            return Encoding(name, _shown(name), True)
    if (wide := _unmarked_wide(chunk)) is not None:
        return Encoding(wide, wide, False)
    valid, bad, sample = 0, 0, b""
    rest = b""
    while chunk:
        if rest or not chunk.isascii():
            text = rest + chunk
            # A character may go on in the next chunk.
            cut = max(len(text) - 3, 0) if len(chunk) == _CHUNK else len(text)
            rest, text = text[cut:], text[:cut]
            good = sum(map(len, _VALID.findall(text)))
            high = sum(map(len, _HIGH.findall(text)))
            valid, bad = valid + good, bad + high - good
            if len(sample) < _SAMPLE:
                sample += b"\n".join(line for line in text.splitlines() if not line.isascii())[:_SAMPLE]
        chunk = stream.read(_CHUNK)
    if bad == 0 or valid > 2 * bad:
        # Few bad bytes in a UTF-8 file: only their own rows are refused.
        return Encoding("utf-8", "utf-8", False)
    name = _eight_bit(sample)
    return Encoding(name, _shown(name), False)


def _unmarked_wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by where NUL stands; delimiters and digits have it in any language."""
    head = head[: min(len(head), 4096) // 4 * 4]
    if not head:
        return None
    first, second, third, fourth = (4 * head[place::4].count(0) / len(head) for place in range(4))
    even, odd = (first + third) / 2, (second + fourth) / 2
    if third == fourth == 1.0 and first < 1.0:
        name = "utf-32-le"
    elif first == second == 1.0 and fourth < 1.0:
        name = "utf-32-be"
    elif odd > _WIDE and even < odd / 10:
        name = "utf-16-le"
    elif even > _WIDE and odd < even / 10:
        name = "utf-16-be"
    else:
        return None
    return None if _CONTROL.search(head.decode(name, errors="ignore")) else name


def _eight_bit(sample: bytes) -> str:
    """An 8-bit encoding by what its text would look like; with little text, one of the West."""
    import chardet

    western = "cp1252" if any(0x80 <= byte < 0xA0 for byte in sample) else "latin-1"
    oddity = _oddity(sample, western)
    others = [name for name in _OTHERS_OF_THE_WEST if _oddity(sample, name) < oddity / 10]
    if oddity > _MOST_ODD and others:
        return str(chardet.detect(sample, include_encodings=others)["encoding"])
    high = sum(map(len, _HIGH.findall(sample)))
    letters = len(_LETTER.findall(sample))
    if high < _FEW or (high < 10 * _FEW and high < 0.25 * (letters + high)):
        return western
    found = chardet.detect_all(sample, encoding_era=chardet.EncodingEra.MODERN_WEB, ignore_threshold=True)
    confidence = {codecs.lookup(one["encoding"]).name: one["confidence"] for one in found if one["encoding"]}
    best = max(confidence, key=lambda name: confidence[name], default="cp1252")
    if best.startswith(("utf", "ascii")) or confidence.get(best, 0.0) < 2 * confidence.get("cp1252", 0.0):
        return western
    # Where both read the same, the common name is said.
    text = sample.decode(western, errors="replace")
    return western if text == sample.decode(best, errors="replace") else best


def _oddity(sample: bytes, name: str) -> float:
    """Share of the characters beyond ASCII that stand where no text has them, read in this encoding."""
    text = sample.decode(name, errors="replace")
    return len(_ODD.findall(text)) / max(1, len(_BEYOND_ASCII.findall(text)))


def _shown(name: str) -> str:
    name = codecs.lookup(name).name
    shown = {"utf-8-sig": "utf-8", "iso8859-1": "latin-1"}.get(name, name)
    return shown.replace("_", "-") if shown.startswith("utf") else shown
