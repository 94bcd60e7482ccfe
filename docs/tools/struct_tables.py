"""Tables of the fields of msgspec structs, from their types and docstrings."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from recserve_client.http import docstrings


def described(docstring: str) -> tuple[str, dict[str, str]]:
    """The text of a docstring before its attributes, and what it says of each attribute, as a cell of a table."""
    text, meaning_of = docstrings.described(docstring)
    return text, {name: cell(meaning) for name, meaning in meaning_of.items()}


def schemas_of(*types: type) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The names of some types, and the JSON schema of each and of what they consist of, by name."""
    found, components = msgspec.json.schema_components(types, ref_template="#{name}")
    return [name_in(schema) or "" for schema in found], components


def name_in(kind: dict[str, Any]) -> str | None:
    """The struct that a schema refers to."""
    return kind["$ref"].removeprefix("#") if "$ref" in kind else None


def type_words(kind: dict[str, Any]) -> str:
    """A type as words; structs are links to their headings."""
    if name := name_in(kind):
        return f"[{name}](#{name.lower()})"
    if "anyOf" in kind:
        return " or ".join(type_words(option) for option in kind["anyOf"])
    if "enum" in kind:
        return " or ".join(f"`{json.dumps(value)}`" for value in kind["enum"])
    if kind.get("type") == "array":
        return f"array of {type_words(kind.get('items', {}))}"
    words = [str(kind.get("type", "any"))]
    if isinstance(values := kind.get("additionalProperties"), dict):
        words = [f"object of {type_words(values)}"]
    signs = {
        "minimum": ">=",
        "exclusiveMinimum": ">",
        "maximum": "<=",
        "minLength": "length >=",
        "maxLength": "length <=",
    }
    return ", ".join([*words, *(f"{sign} {_number(kind[key])}" for key, sign in signs.items() if key in kind)])


def _number(value: float) -> str:
    """A bound: 1,000,000 and 1e12."""
    if abs(value) >= 1e9:
        return f"{value:.0e}".replace("e+", "e")
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def default_words(name: str, schema: dict[str, Any]) -> str:
    """The default of a field."""
    kind = schema["properties"][name]
    if name in schema.get("required", []):
        return "required"
    return f"`{json.dumps(kind['default'], ensure_ascii=False)}`" if "default" in kind else "may be absent"


def fields_table(schema: dict[str, Any]) -> list[str]:
    """The table of the fields of a struct, as its docstring describes them."""
    _, meaning_of = described(schema["description"])
    rows = [
        (f"`{field}`", type_words(of), default_words(field, schema), meaning_of.get(field, ""))
        for field, of in schema["properties"].items()
    ]
    return table(("field", "type", "default", "meaning"), *rows)


def cell(text: str) -> str:
    """A text for a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


def table(*rows: tuple[str, ...]) -> list[str]:
    """Lines of a table, the first row being its head."""
    head, *rest = rows
    return [_line(head), _line(("---",) * len(head)), *map(_line, rest)]


def _line(cells: tuple[str, ...]) -> str:
    # An empty cell is one blank, as editors of tables write it.
    return "|" + "|".join(f" {text} " if text else " " for text in cells) + "|"
