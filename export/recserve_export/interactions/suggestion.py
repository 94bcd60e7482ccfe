"""The command that would import a file of interactions, guessed from its columns."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import Column

_USERS: Final = ("user_id", "userid", "user", "visitorid", "customer_id", "customer", "reviewerid", "uid", "username")
_ITEMS: Final = (
    "item_id", "itemid", "item", "movieid", "movie_id", "product_id", "productid", "parent_asin", "asin", "book_id",
    "business_id", "sku", "iid",
)  # fmt: skip
_TIMES: Final = ("timestamp", "time", "date", "unixreviewtime", "event_time", "datetime", "ts", "date_added", "at")
_TYPES: Final = ("type", "event", "event_type", "action", "behavior", "behaviour")
_VALUES: Final = ("rating", "stars", "overall", "score", "value")


def suggested_import(opened: Opened, columns: Sequence[Column]) -> str:
    """The command; columns are found by their usual names."""
    by_name = {one.name.lower(): one.name for one in columns}
    words = ["recserve", "interactions", "import", opened.where]
    for option, usual, default in (
        ("--user-field", _USERS, "user_id"),
        ("--item-field", _ITEMS, "item_id"),
        ("--time-field", _TIMES, "timestamp"),
    ):
        found = next((by_name[name] for name in usual if name in by_name), None)
        if found is None and option == "--time-field":
            words += ["--time", "row"]
        elif found != default:
            words += [option, found or "COLUMN"]
    type_ = next((by_name[name] for name in _TYPES if name in by_name), None)
    value = next((by_name[name] for name in _VALUES if name in by_name), None)
    if type_ is not None:
        words += ["--type-field", type_]
    else:
        words += ["--type", "click" if value is None else "rating"]
    if value is not None:
        words += ["--field", f"value={value}"]
    return shlex.join(words)
