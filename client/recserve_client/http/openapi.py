"""The OpenAPI 3.1 document, made from the table of operations and the types of the contract."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from recserve_client.http.docstrings import described
from recserve_client.http.exchange import EVENT_STREAM, JSON, NDJSON
from recserve_client.http.operations import OPERATIONS, PATH_EXAMPLES, PROBLEMS, Operation
from recserve_client.http.problems import CONTENT_TYPE, HTTP_STATUS_OF, Problem

PATH: Final = "/v1/openapi.json"
_REF: Final = "#/components/schemas/{name}"
_ID_SCHEMAS: Final = {
    "item_id": {"type": "string", "minLength": 1, "maxLength": 512},
    "user_id": {"type": "string", "minLength": 1, "maxLength": 256},
}
_MEANING_OF_PATH: Final = {
    "item_id": "Item id, percent-encoded. `.` and `..` are no path segments: use the operations on several items.",
    "user_id": "User id, percent-encoded.",
}
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "An API key."},
}
_ABOUT: Final = (
    "JSON over HTTP in front of a recserve server. Bodies and answers are the messages of the gRPC protocol. "
    "Whatever goes wrong is a problem document (RFC 9457)."
)


@cache
def openapi_json() -> bytes:
    """The document as JSON."""
    return msgspec.json.encode(openapi())


def openapi() -> dict[str, Any]:
    """The document."""
    types = _types()
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    by_name = {kind.__name__: kind for kind in types}
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "recserve", "version": version("recserve"), "description": _ABOUT},
        # Where the server asks for keys; the empty one says that another server asks for none.
        "security": [*({name: []} for name in _SCHEMES), {}],
        "paths": paths,
        "components": {
            "schemas": {name: documented(schema, by_name.get(name)) for name, schema in schemas.items()},
            "securitySchemes": _SCHEMES,
            "responses": {str(status): _problem(status) for status in sorted(set(HTTP_STATUS_OF.values()))},
        },
    }


def documented(schema: dict[str, Any], kind: type | None = None) -> dict[str, Any]:
    """A schema whose description is that of the message, and whose fields have theirs.

    Args:
        schema: JSON schema of a message type, as msgspec makes it.
        kind: The type, where fields that it inherits are to be described.
    """
    text, meaning_of = described(schema.get("description", ""))
    for base in kind.__mro__[1:] if kind is not None else ():
        meaning_of = {**described(base.__doc__ or "")[1], **meaning_of}
    found = {**schema, "description": text} if text else dict(schema)
    if "properties" in schema:
        found["properties"] = {
            name: _with_text(of, meaning_of.get(name, "")) for name, of in schema["properties"].items()
        }
    return found


def _with_text(schema: dict[str, Any], text: str) -> dict[str, Any]:
    """A schema with more text in its description."""
    whole = " ".join(filter(None, (text, schema.get("description"))))
    return {**schema, "description": whole} if whole else schema


def _types() -> list[type]:
    """Types of all bodies, answers and lines."""
    found: dict[type, None] = {Problem: None}
    for operation in OPERATIONS:
        for kind in (operation.body, operation.answer, *(operation.line or ())):
            if kind is not None:
                found[kind] = None
    return list(found)


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    text = operation.handle.__doc__
    found["description"] = text or operation.summary
    found["parameters"] = [*_path_parameters(operation), *_query_parameters(operation), *_headers(operation)]
    if operation.body is not None:
        content: dict[str, Any] = {JSON: {"schema": _reference(operation.body)}}
        if operation.example is not None:
            content[JSON]["example"] = operation.example
        if operation.line is not None:
            content[NDJSON] = _lines(operation.line[0])
        found["requestBody"] = {"required": True, "content": content}
    responses: dict[str, Any] = {str(of): _answer(operation, of) for of in operation.statuses}
    for status in sorted({*PROBLEMS, *operation.problems}):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return {**found, "responses": responses}


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": schema,
            "description": _MEANING_OF_PATH[name],
            "example": PATH_EXAMPLES[name],
        }
        for name, schema in _ID_SCHEMAS.items()
        if f"{{{name}}}" in operation.path
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    _, schemas = msgspec.json.schema_components([operation.query], ref_template=_REF)
    properties = documented(schemas[operation.query.__name__], operation.query)["properties"]
    parameters = []
    for name, of in properties.items():
        schema = {key: value for key, value in of.items() if key != "description"}
        if "anyOf" in schema:  # a parameter that is absent, not null
            (schema,) = [one for one in schema["anyOf"] if one != {"type": "null"}]
        found = {"name": name, "in": "query", "schema": schema, "description": of.get("description", "")}
        if name in (operation.example or {}):
            example = operation.example[name]
            found["example"] = example
        parameters.append(found)
    return parameters


def _headers(operation: Operation) -> list[dict[str, Any]]:
    text = {"type": "string", "maxLength": 128}
    return [
        {"name": name, "in": "header", "schema": text, "description": meaning}
        for name, meaning in operation.headers.items()
    ]


def _answer(operation: Operation, status: int) -> dict[str, Any]:
    headers: dict[str, Any] = {"X-Request-Id": _header("Id of the request.")}
    if "If-Match" in operation.headers or "If-None-Match" in operation.headers:
        headers["ETag"] = _header("Revision of the item.")
    found: dict[str, Any] = {"description": operation.statuses[status], "headers": headers}
    if status != 304:
        found["content"] = _content(operation)
    return found


def _content(operation: Operation) -> dict[str, Any]:
    if operation.media == EVENT_STREAM:
        # As for lines, OpenAPI 3.1 has no words for the schema of an event's data.
        text = "Events with `id`, `event` and `data`; comments keep the stream open."
        schema = {"type": "string", "description": text}
        return {EVENT_STREAM: {"schema": schema, "x-data-schema": _reference(operation.answer)}}
    content: dict[str, Any] = {JSON: {"schema": _reference(operation.answer)}}
    if operation.line is not None:
        content[NDJSON] = _lines(operation.line[1])
    return content


def _problem(status: int) -> dict[str, Any]:
    kinds = ", ".join(f"`{kind}`" for kind, of in HTTP_STATUS_OF.items() if of == status)
    headers = {"X-Request-Id": _header("Id of the request.")}
    if status == 503:
        headers["Retry-After"] = _header("Seconds after which to try again.")
    if status == 401:
        headers["WWW-Authenticate"] = _header("How to send a key.")
    if status == 405:
        headers["Allow"] = _header("The methods of this path.")
    return {
        "description": f"A problem of the kind {kinds}.",
        "headers": headers,
        "content": {CONTENT_TYPE: {"schema": _reference(Problem)}},
    }


def _header(text: str) -> dict[str, Any]:
    return {"schema": {"type": "string"}, "description": text}


def _reference(kind: type) -> dict[str, str]:
    return {"$ref": _REF.format(name=kind.__name__)}


def _lines(kind: type) -> dict[str, Any]:
    """A stream of lines; OpenAPI 3.1 has no words for the schema of a line."""
    text = f"A line for each {kind.__name__}."
    return {"schema": {"type": "string", "description": text}, "x-line-schema": _reference(kind)}
