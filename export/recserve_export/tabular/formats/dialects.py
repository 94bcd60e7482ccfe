"""The dialect of delimited text: delimiter, quote, escape, header, guessed from the first lines."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from recserve_export.tabular.options import ReadOptions
from recserve_export.tabular.rows import HEADER_LINES, header_place

#: The usual ones first: of two that fit equally well the first is taken.
DELIMITERS: Final = (",", ";", "\t", "|", "::", "^", "~", "\x01", ":")
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.+?)"?\r?\n?', re.IGNORECASE)
_NAMES: Final = {"\t": "tab", " ": "space", "\x01": "\\x01"}
#: Lines that are looked at.
SAMPLE_LINES: Final = 200


class Dialect(NamedTuple):
    """How delimited text is written.

    Attributes:
        delimiter: Between two values; of more than one character it splits lines that have no quotes.
        quote: The quote character; empty for none.
        escapes: Whether a quote within quotes is written `\\"` and not `""`.
        skips_space: Whether a space after the delimiter is no part of the value.
        skipped: Lines before the header, such as `sep=;`.
        titles: How many of them say something else.
    """

    delimiter: str
    quote: str
    escapes: bool
    skips_space: bool
    skipped: int
    titles: int = 0

    @property
    def format(self) -> dict[str, Any]:
        """Arguments of `csv.reader`."""
        quoting = {"quoting": csv.QUOTE_MINIMAL, "quotechar": self.quote} if self.quote else {"quoting": csv.QUOTE_NONE}
        escape = {"escapechar": "\\", "doublequote": False} if self.escapes else {}
        return {"delimiter": self.delimiter, "skipinitialspace": self.skips_space, **quoting, **escape}

    @property
    def shown(self) -> str:
        """As it is said: the delimiter, and a quote other than the usual one."""
        delimiter = _NAMES.get(self.delimiter, self.delimiter)
        quote = "" if self.quote == '"' else ", no quotes" if not self.quote else f", quote {self.quote}"
        return f"'{delimiter}'" + quote + (", escaped by \\" if self.escapes else "")


def guess_dialect(lines: Sequence[str], wanted: Sequence[str], options: ReadOptions, ending: str) -> Dialect:
    """The dialect of a text by its first lines.

    Args:
        lines: The first lines.
        wanted: Columns that the header should name.
        options: What was asked for.
        ending: Ending of the file's name; `.tsv` speaks for tabs.
    """
    skipped = 0
    delimiter = options.delimiter
    if lines and (found := _SEPARATOR_LINE.fullmatch(lines[0])) is not None:
        delimiter, skipped = delimiter or found[1].replace("\\t", "\t"), 1
    titles = _above(lines[skipped:], wanted, options)
    skipped += titles
    lines = [line for line in lines[skipped:] if line.strip()]
    if delimiter is None:
        delimiter = _delimiter(lines, wanted, options.columns, ending)
    quote = options.quote
    if quote is None:
        quote = "" if len(delimiter) > 1 else _quote(lines, delimiter)
    text = "".join(lines)
    escapes = (
        bool(quote) and f"\\{quote}" in text and not re.search(rf"{quote}{quote}(?!{re.escape(delimiter)}|\s)", text)
    )
    escapes = escapes and re.search(rf"\\{quote}[^{re.escape(delimiter[0])}\r\n]", text) is not None
    skips = bool(lines) and delimiter != " " and lines[0].count(delimiter) > 0
    skips = skips and lines[0].count(delimiter) == lines[0].count(f"{delimiter} ")
    return Dialect(delimiter, quote, escapes, skips, skipped, titles)


def _above(lines: Sequence[str], wanted: Sequence[str], options: ReadOptions) -> int:
    """How many lines stand above the header, or above the first record where there is none: titles, comments."""
    lines = lines[:HEADER_LINES]
    candidates = DELIMITERS if options.delimiter is None else (options.delimiter,)
    if not options.columns:
        names = [{_bare(name) for one in candidates for name in line.split(one)} - {""} for line in lines]
        if (place := header_place(names, wanted)) is not None:
            return place
    widths = [max(line.count(one) for one in candidates) for line in lines]
    width = len(options.columns) - 1 if options.columns else max(widths, default=0)
    given = [place for place, line in enumerate(lines) if line.strip()]
    last = max((place for place in given if not widths[place]), default=-1)
    below = [widths[place] for place in given if place > last]
    has_titles = not options.columns and len(below) > 1 and set(below) == {width}
    for place in given:
        # A line of the table may begin with # as well, and a table of one column has titles with commas.
        is_title = has_titles and place <= last
        is_comment = lines[place].lstrip().startswith("#") and widths[place] < width
        if not (is_title or is_comment):
            return place
    return 0


def _delimiter(lines: Sequence[str], wanted: Sequence[str], names: Sequence[str], ending: str) -> str:
    if not lines:
        return ","
    if len(names) > 1:
        fits = {one: sum(line.count(one) == len(names) - 1 for line in lines) for one in DELIMITERS}
        best = max(fits, key=lambda one: fits[one])
        if fits[best]:
            return best
    # The header that names what is wanted tells most.
    heads = {one: [_bare(name) for name in lines[0].split(one)] for one in DELIMITERS}
    found = {one: sum(name.partition(".")[0] in heads[one] for name in wanted) for one in DELIMITERS if one in lines[0]}
    best = max(found, key=lambda one: found[one], default="")
    if best and found[best]:
        return best
    if ending in (".tsv", ".tab") and "\t" in lines[0]:
        return "\t"
    if all("::" in line for line in lines):
        return "::"
    return _by_shape(lines)


def _by_shape(lines: Sequence[str]) -> str:
    import clevercsv

    text = "".join(lines)[:20_000].replace("\0", "")
    candidates = [one for one in DELIMITERS if len(one) == 1]
    try:
        found = clevercsv.Detector().detect(text, delimiters=candidates)
    except Exception:  # a guess that fails is no guess
        found = None
    return found.delimiter if found is not None and found.delimiter else ","


def _quote(lines: Sequence[str], delimiter: str) -> str:
    """The double quote, unless only single ones stand around whole values."""
    edge = re.escape(delimiter)
    double = sum(len(re.findall(rf'(?:^|{edge})"', line)) for line in lines)
    single = sum(len(re.findall(rf"(?:^|{edge})'[^']*'(?={edge}|\r?\n?$)", line)) for line in lines)
    if not double and single >= max(2, len(lines)):
        return "'"
    if delimiter == "\t" and double and not _closes(lines, delimiter):
        return ""
    return '"'


def _closes(lines: Sequence[str], delimiter: str) -> bool:
    """Whether some value that begins with a double quote ends with one: tables between tabs often have no quotes."""
    values = (value for line in lines for value in line.rstrip("\r\n").split(delimiter) if value.startswith('"'))
    return any(len(value) > 1 and value.endswith('"') for value in values)


def _bare(name: str) -> str:
    return name.strip().strip("\"'").lstrip("\ufeff")
