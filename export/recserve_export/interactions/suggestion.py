"""The command that would import a file of interactions, guessed from its columns."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

from recserve_export.tabular.opening import Opened
from recserve_export.tabular.preview import Column, bare_name

#: Usual names of columns, as `bare_name` gives them; the first that a file has is taken.
USERS: Final = (
    "userid", "user", "visitorid", "customerid", "customer", "reviewerid", "uid", "username", "useridx",
    "userpseudoid", "clientid", "memberid", "accountid", "email",
)  # fmt: skip
ITEMS: Final = (
    "itemid", "item", "movieid", "productid", "parentasin", "asin", "bookid", "isbn", "businessid", "sku",
    "lineitemsku", "iid", "trackid", "songid", "artistid", "newsid", "animeid", "gameid", "appid", "articleid",
    "productsku",
)  # fmt: skip
TIMES: Final = (
    "timestamp", "time", "date", "unixreviewtime", "eventtime", "eventtimestamp", "datetime", "ts", "dateadded", "at",
    "createdat", "paidat", "purchasedate", "orderdate", "reviewdate",
)  # fmt: skip
TYPES: Final = ("type", "event", "eventtype", "eventname", "action", "behavior", "behaviour")
_TEXTS: Final = ("reviewtext", "reviewbody", "review", "comment", "text")
VALUES: Final = ("rating", "stars", "overall", "score", "value", "bookrating", "userrating", "reviewscore")


def suggested_import(opened: Opened, columns: Sequence[Column]) -> str:
    """The command; columns are found by their usual names."""
    by_name = {bare_name(one.name): one.name for one in reversed(columns)}
    times = [one.name for one in columns if one.kind == "time"]
    words = ["recserve", "interactions", "import", opened.where]
    for option, usual, default in (
        ("--user-field", USERS, "user_id"),
        ("--item-field", ITEMS, "item_id"),
        ("--time-field", TIMES, "timestamp"),
    ):
        found = next((by_name[name] for name in usual if name in by_name), None)
        if option == "--time-field":
            found = found or next(iter(times), None)
        if found is None and option == "--time-field":
            words += ["--time", "row"]
        elif found != default:
            words += [option, found or "COLUMN"]
        if any(one.day_first and one.name == found for one in columns):
            words.append("--day-first")
    type_ = next((by_name[name] for name in TYPES if name in by_name), None)
    value = next((by_name[name] for name in VALUES if name in by_name), None)
    if type_ is not None:
        words += ["--type-field", type_]
    else:
        words += ["--type", "click" if value is None else "rating"]
    text = next((by_name[name] for name in _TEXTS if name in by_name), None)
    if text is not None:
        words += ["--text-field", text]
    if value is not None:
        words += ["--field", f"value={value}"]
    return shlex.join(words)
