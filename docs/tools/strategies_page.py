"""The page of the strategies, from the registry and their options structs."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from typing import Any, Final

from recserve_server_ext.strategies.base import Strategy
from recserve_server_ext.strategies.registry import BUILT_IN, PRESETS, Registry
from struct_tables import default_words, described, fields_table, schemas_of, table, type_words

_HEAD: Final = """\
# Strategies

A strategy proposes candidates and scores them. A request names one in `strategy`, and may set some of its options in
`options`. The settings give the defaults of all options, in a table `[strategies.NAME]`. They also say which strategy
answers where a request names none (`strategy`), and where nothing usable is known of a user (`fallback`).

An unknown name is refused with the list of those that there are. So is an option that is unknown, wrong, or beyond the
`bounds` of the settings. [Choose a strategy](../how-to/choose-a-strategy.md) has examples,
[Scoring](../explanation/scoring.md) has the formulas, and [Add a strategy](../how-to/add-a-strategy.md) says how to
write one.

Every table `[strategies.NAME]` may have two more entries:

| entry | meaning |
|---|---|
| `kind` | For a strategy of a new name: the name of the strategy that it is made of. |
| `bounds` | By option what a request may ask for: the least and the greatest number, or a list of values. |
"""


def strategies_page() -> str:
    """The page as Markdown."""
    registry = Registry()
    kinds = [line for name, kind in sorted(BUILT_IN.items()) for line in _strategy(name, kind, registry)]
    presets = [line for name, given in PRESETS.items() for line in _preset(name, given, registry)]
    return "\n".join([_HEAD, *kinds, *presets])


def _strategy(name: str, kind: type[Strategy], registry: Registry) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
    yield ""
    yield from _needs(name, registry)
    if kind.Options.__struct_fields__:
        yield ""
        yield from _options(kind)
    yield ""


def _needs(name: str, registry: Registry) -> Iterator[str]:
    strategy = registry.choose(name, {}).strategy
    yield f"- Needs a usable history of the user: {_yes(strategy.is_personal)}."
    yield f"- Needs the encoder for texts of a history: {_yes(strategy.needs_texts)}."
    yield f"- Needs counts of the log: {', '.join(sorted(strategy.counts)) or 'no'}."


def _options(kind: type[Strategy]) -> list[str]:
    (name,), schemas = schemas_of(kind.Options)
    schema = schemas[name]
    _, meaning_of = described(schema["description"])
    rows = [
        (
            f"`{field}`",
            type_words(of),
            default_words(field, schema),
            _yes(field in kind.per_request),
            meaning_of.get(field, ""),
        )
        for field, of in schema["properties"].items()
    ]
    lines = table(("option", "type", "default", "in a request", "meaning"), *rows)
    for part in schemas.keys() - {name}:
        lines += ["", f"### {part}", "", *fields_table(schemas[part])]
    return lines


def _preset(name: str, given: Any, registry: Registry) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    kind = given["kind"]
    yield f"A preset: `{kind}` with other defaults. It takes the options of [{kind}](#{kind})."
    yield ""
    yield from _needs(name, registry)
    yield ""
    yield "```toml"
    yield f"[strategies.{name}]"
    for option, value in given.items():
        yield f"{option} = {_toml(value)}"
    yield "```"
    yield ""


def _toml(value: Any) -> str:
    if not isinstance(value, dict):
        return json.dumps(value)
    return "{ " + ", ".join(f"{name} = {_toml(of)}" for name, of in value.items()) + " }"


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
