"""The command that would import a file as a catalogue, guessed from its columns."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import Column, ColumnKind, bare_name
from recserve_export.tabular.values import ValueType

_IDS: Final = (
    "id", "itemid", "sku", "asin", "parentasin", "productid", "bookid", "movieid", "isbn", "businessid", "handle",
    "variantsku", "newsid", "trackid", "animeid", "appid", "articleid",
)  # fmt: skip
_TEXTS: Final = (
    "title", "name", "description", "summary", "overview", "text", "blurb", "plot", "booktitle", "movietitle",
    "productname", "itemname", "bodyhtml", "abstract", "headline", "synopsis",
)  # fmt: skip
_TYPES: Final[dict[ColumnKind, ValueType]] = {
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "list": "list",
    "time": "str",
    "text": "str",
}
_MOST_ATTRIBUTES: Final = 12


def suggested_import(opened: Opened, columns: Sequence[Column]) -> str:
    """The command; its id is a column with a usual name or distinct values, its texts are those that read like text."""
    ids = sorted(columns, key=lambda one: (_rank(one.name, _IDS), one.missing, -one.distinct))
    item_id = ids[0].name if ids else "id"
    kinds = [one for one in columns if one.kind == "text" and one.name != item_id]
    texts = [one.name for one in kinds if _rank(one.name, _TEXTS) < len(_TEXTS)] or [one.name for one in kinds][:1]
    words = ["recserve", "catalogue", "import", opened.where]
    if item_id != "id":
        words += ["--id-field", item_id]
    for name in texts:
        words += ["--text", f"{name}=1" if "=" in name else name]
    others = [one for one in columns if one.name not in (item_id, *texts) and one.kind in _TYPES]
    for one in others[:_MOST_ATTRIBUTES]:
        type_ = _TYPES[one.kind]
        words += ["--attribute", one.name if type_ == "str" and ":" not in one.name else f"{one.name}:{type_}"]
    return shlex.join(words)


def _rank(name: str, usual: Sequence[str]) -> int:
    bare = bare_name(name)
    return usual.index(bare) if bare in usual else len(usual)
