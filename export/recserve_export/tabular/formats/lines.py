"""Lines of a text, with their numbers, that can be given back."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Iterator
from typing import IO, Final

from recserve_export.errors import SourceError
from recserve_export.tabular.encodings import Encoding

_CHUNK: Final = 1 << 14
#: Characters of a line that are kept; the rest of a longer one is passed over, so that memory stays flat.
MAX_LINE: Final = 4 << 20


def text_lines(stream: IO[bytes], encoding: Encoding) -> Iterator[str]:
    """The lines of a text with their ends, `\\n`, `\\r\\n` or `\\r`; one that is too long is cut.

    Bytes that are not valid in an 8-bit encoding or in UTF-8 become lone surrogates, so that only their own row is
    refused.

    Raises:
        SourceError: The text is not in this encoding.
    """
    errors = "strict" if encoding.name.startswith(("utf-16", "utf-32")) else "surrogateescape"
    decode = codecs.getincrementaldecoder(encoding.name)(errors).decode
    end, rest, is_cut = "", "", False
    try:
        while chunk := stream.read(_CHUNK):
            text = rest + decode(chunk)
            end = end or _line_end(text, is_last=False)
            *parts, rest = text.split(end) if end else [text]
            for part in parts:
                if not is_cut:
                    yield part[:MAX_LINE] + end
                is_cut = False
            if is_cut:
                rest = ""
            elif len(rest) > MAX_LINE:
                yield rest[:MAX_LINE] + (end or "\n")
                rest, is_cut = "", True
        rest += decode(b"", final=True)
    except UnicodeError as error:
        raise SourceError(f"the text is not in {encoding.shown}: {error}; name its encoding with --encoding") from error
    end = end or _line_end(rest, is_last=True)
    parts = rest.split(end) if end else [rest]
    for place, part in enumerate(parts[is_cut:], start=1 + is_cut):
        if place < len(parts) or part:
            yield part[:MAX_LINE] + (end if place < len(parts) else "")


def _line_end(text: str, *, is_last: bool) -> str:
    if "\n" in text:
        return "\n"
    # Not before it is known whether a line feed follows.
    if "\r" in text and (is_last or len(text) > 4096):
        return "\r"
    return ""


class Lines:
    """An iterator of lines for `csv.reader`: keeps those of the record that is read, and takes lines back.

    Attributes:
        number: Number of the line that was given last, from 1.
        taken: The lines since the last `done`.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self.number = 0
        self.taken: list[str] = []
        self._lines = lines
        self._again: deque[str] = deque()

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self) -> None:
        """Take back all lines of the record but the first."""
        again = self.taken[1:]
        self.number -= len(again)
        self._again.extendleft(reversed(again))
        del self.taken[1:]

    def split_at_returns(self) -> bool:
        """Take back the line that is read as several, where carriage returns are in it; whether any were."""
        last = self.taken[-1].rstrip("\r\n") if self.taken else ""
        if len(self.taken) != 1 or "\r" not in last:
            return False
        self._again.extendleft(f"{line}\n" for line in reversed(last.split("\r")))
        self.number -= 1
        self.taken.clear()
        return True
