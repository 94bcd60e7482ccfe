"""The page of the HTTP API, from its OpenAPI document and its table of operations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlencode

from recserve_client.contract import ServedStrategy
from recserve_client.http.exchange import EVENT_STREAM, JSON
from recserve_client.http.openapi import openapi
from recserve_client.http.operations import DONE, OPERATIONS, PATH_EXAMPLES, Operation
from recserve_client.http.problems import HTTP_STATUS_OF, Problem
from struct_tables import cell, default_words, table, type_words

_BASE: Final = "http://127.0.0.1:8080"
_CONTRACT: Final = "recserve_client.contract."
_HEAD: Final = """\
# HTTP API

JSON over HTTP, served by `recserve http` ([Serve HTTP](../how-to/serve-http.md)). The same as an OpenAPI 3.1 document:
`GET /v1/openapi.json`. Bodies and answers are the messages of the [protocol](protocol/index.md).

- **Bodies** are `application/json`, at most 49 MiB. Where a line is named, `application/x-ndjson` is taken too: one
  message a line, at most 1 MiB each, of any number. The answer has a line for each that is not blank, in their order.
- **Ids in paths** are percent-encoded, a slash as `%2F`.
- **Request ids**: `X-Request-Id` of at most 128 printable characters is kept, otherwise one
  is made. Every answer has it.
- **Compression**: by `Accept-Encoding: zstd` or `gzip`, of answers from 500 bytes. Bodies are taken as they are.
- `HEAD` is answered wherever `GET` is.

## Problems

Whatever goes wrong is a problem document (RFC 9457), `application/problem+json`. Its `kind` is that of
[Errors](errors.md), or one that only HTTP has. A 503 has `Retry-After`, a 405 `Allow`.
"""


def http_page() -> str:
    """The page as Markdown."""
    document = openapi()
    schemas = {name: _linked(schema) for name, schema in document["components"]["schemas"].items()}
    lines = [_HEAD, *_problems(schemas), "", "## Operations", ""]
    rows = [(f"[`{of.method} {of.path}`](#{of.name})", of.summary) for of in OPERATIONS]
    lines += [*table(("operation", "what it does"), *rows), ""]
    for operation in OPERATIONS:
        lines += _operation(operation, document["paths"][operation.path][operation.method.lower()])
    lines += ["## Messages of HTTP alone", ""]
    for kind in _own_types():
        schema = schemas[kind.__name__]
        lines += [f"### {kind.__name__}", "", schema["description"], "", *_fields(schema), ""]
    return "\n".join(lines)


def _problems(schemas: dict[str, Any]) -> Iterator[str]:
    yield from _fields(schemas[Problem.__name__])
    yield ""
    by_status: dict[int, list[str]] = {}
    for kind, status in HTTP_STATUS_OF.items():
        by_status.setdefault(status, []).append(f"`{kind}`")
    rows = [(f"{status} {HTTPStatus(status).phrase}", ", ".join(by_status[status])) for status in sorted(by_status)]
    yield from table(("status", "kinds"), *rows)


def _operation(operation: Operation, of: dict[str, Any]) -> Iterator[str]:
    yield from (f"### {operation.name}", "", f"`{operation.method} {operation.path}`: {operation.summary}.", "")
    if operation.body is not None:
        yield f"- body: {_reference(operation.body)}"
    if operation.line is not None:
        yield f"- a line: {_reference(operation.line[0])}, answered by {_reference(operation.line[1])}"
    statuses = "".join(f"; {status}: {text}" for status, text in operation.statuses.items() if text != DONE)
    of_event = f"`{EVENT_STREAM}`; the data of an event: " if operation.media == EVENT_STREAM else ""
    yield f"- answer: {of_event}{_reference(operation.answer)}{statuses}"
    if operation.problems:
        yield f"- problems beside those of all: {', '.join(map(str, operation.problems))}"
    yield ""
    parameters = [one for one in of["parameters"] if one["in"] != "path"]
    if parameters:
        rows = [
            (f"`{one['name']}`", _type(one["schema"]), _default(one), cell(one["description"])) for one in parameters
        ]
        yield from table(("parameter", "type", "default", "meaning"), *rows)
        yield ""
    yield from ("```sh", _curl(operation), "```", "")


def _type(schema: dict[str, Any]) -> str:
    return (
        f"{type_words(schema.get('items', {}))}, may be repeated"
        if schema.get("type") == "array"
        else type_words(schema)
    )


def _default(parameter: dict[str, Any]) -> str:
    if parameter["in"] == "header":
        return "none (a header)"
    default = parameter["schema"].get("default")
    return "none" if default in (None, []) else f"`{json.dumps(default)}`"


def _curl(operation: Operation) -> str:
    """A command that asks for the example."""
    path = operation.path.format(**PATH_EXAMPLES)
    words = ["curl", "-s"]
    if operation.media == EVENT_STREAM:
        # A stream does not end by itself.
        command = shlex.join([*words, "-N", "--max-time", "3", f"{_BASE}{operation.path}"])
        return f"{command} | sed -n 's/^data: //p'"
    if operation.method != "GET":
        words += ["-X", operation.method]
    if operation.body is not None:
        words += [f"{_BASE}{path}", "-H", f"content-type: {JSON}", "-d", json.dumps(operation.example)]
    else:
        query = f"?{urlencode(operation.example, doseq=True)}" if operation.example else ""
        words.append(f"{_BASE}{path}{query}")
    return shlex.join(words)


def _own_types() -> list[type]:
    """The messages that no page of the protocol has."""
    found: dict[type, None] = {}
    for operation in OPERATIONS:
        for kind in (operation.body, operation.answer, *(operation.line or ())):
            if kind is not None and not _has_page(kind):
                found[kind] = None
    return [*found, ServedStrategy]


def _has_page(kind: type) -> bool:
    return kind.__module__.startswith(_CONTRACT) and not kind.__module__.endswith(".strategies")


def _reference(kind: type) -> str:
    name = kind.__name__
    page = f"protocol/{kind.__module__.removeprefix(_CONTRACT)}.md" if _has_page(kind) else ""
    return f"[{name}]({page}#{name.lower()})"


def _linked(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose references are names, as the tables link them."""
    text = json.dumps(schema).replace("#/components/schemas/", "#")
    linked: dict[str, Any] = json.loads(text)
    return linked


def _fields(schema: dict[str, Any]) -> list[str]:
    rows = [
        (f"`{name}`", _field_type(of), default_words(name, schema), cell(of.get("description", "")))
        for name, of in schema["properties"].items()
    ]
    return table(("field", "type", "default", "meaning"), *rows)


def _field_type(schema: dict[str, Any]) -> str:
    """A type as words, whose links to messages of the protocol lead to their pages."""
    words = type_words(schema)
    for kind in {of for operation in OPERATIONS for of in (operation.line or ())}:
        words = words.replace(f"[{kind.__name__}](#{kind.__name__.lower()})", _reference(kind))
    return words
