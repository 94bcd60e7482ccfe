"""The page of the settings, from the structs of `config/`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import ServeSettings
from struct_tables import default_words, described, name_in, schemas_of, table, type_words

_HEAD: Final = """\
# Settings

`recserve serve --config FILE.toml` reads the settings. All of them have defaults. An unknown name or a wrong value ends
the command with one line that names it. Options of the [command](commands.md#recserve-serve) win over the file.

The options of each strategy, in the tables `[strategies.NAME]`, are in [Strategies](strategies.md).
"""
_RULES: Final = """\
## Rules of a history

The file that the setting `rules` of the table `[users]` names, as TOML or JSON. `recserve interactions preview --rules`
and `recserve index build --rules` take the same file. [Scoring](../explanation/scoring.md#weights-of-a-history) has the
formulas. `recserve interactions fit` adds the table `[fitted]`, which nobody writes by hand.
"""
#: A field that is a table of its own: the struct, and how the table is written.
_Table = tuple[str, str]


def settings_page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_tables(ServeSettings, 2), _RULES, *_tables(HistoryRules, 3)])


def _tables(root: type, level: int) -> Iterator[str]:
    """Lines of the tables of a file, one after the other."""
    (name,), schemas = schemas_of(root)
    # Schemas have no default of a field that is made anew each time.
    for field, value in msgspec.to_builtins(root()).items():
        schemas[name]["properties"][field].setdefault("default", value)
    yield from _table(name, "", schemas, level)


def _table(name: str, place: str, schemas: dict[str, dict[str, Any]], level: int) -> Iterator[str]:
    schema = schemas[name]
    summary, meaning_of = described(schema["description"])
    yield f"{'#' * level} {place.strip('[]') or 'Top level'}"
    yield ""
    if place:
        yield f"Table `{place}`. {summary}"
        yield ""
    rows: list[tuple[str, ...]] = []
    below: list[_Table] = []
    for field, kind in schema["properties"].items():
        meaning, found = meaning_of.get(field, ""), _own_table(field, kind, place.strip("[]"))
        if found is None:
            rows.append((f"`{field}`", type_words(kind), default_words(field, schema), meaning))
        elif field != "fitted":
            below.append(found)
            rows.append((f"`{field}`", f"table `{found[1]}`", "", meaning))
    yield from table(("setting", "type", "default", "meaning"), *rows)
    yield ""
    for of, nested in below:
        yield from _table(of, nested, schemas, level)


def _own_table(field: str, kind: dict[str, Any], path: str) -> _Table | None:
    name = f"{path}.{field}".strip(".")
    for option in kind.get("anyOf", [kind]):
        if (found := name_in(option)) is not None:
            return found, f"[{name}]"
        if (found := name_in(option.get("items", {}))) is not None:
            return found, f"[[{name}]]"
        values = option.get("additionalProperties")
        if isinstance(values, dict) and (found := name_in(values)) is not None:
            return found, f"[{name}.NAME]"
    return None
