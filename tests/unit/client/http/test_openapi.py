"""The OpenAPI document: complete, without loose ends, and of the types of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from starlette.testclient import TestClient

from recserve_client import AsyncClient, Client
from recserve_client.http.openapi import openapi
from recserve_client.http.operations import OPERATIONS

DOCUMENT = openapi()
#: Methods of the client -> the operations for them.
OPERATIONS_OF = {
    "recommend": "recommend",
    "recommend_many": "recommend",
    "recommend_text": "recommend_text",
    "recommend_for": "recommend_for",
    "similar": "similar_items",
    "embed": "embed",
    "ready": "ready",
    "server_info": "server_info",
    "strategies": "strategies",
    "items.upsert": "upsert_items",
    "items.delete": "delete_items",
    "items.get": "get_items",
    "items.list": "list_items",
    "interactions.record": "record_interactions",
    "users.history": "user_history",
    "users.export": "export_user",
    "users.erase": "erase_user",
    "users.verify_erasure": "verify_erasure",
}


def references(of: Any) -> Iterator[str]:
    if isinstance(of, dict):
        yield from (value for key, value in of.items() if key == "$ref")
        yield from of.get("discriminator", {}).get("mapping", {}).values()
        for value in of.values():
            yield from references(value)
    elif isinstance(of, list):
        for value in of:
            yield from references(value)


def methods(client: type) -> set[str]:
    return {name for name in vars(client) if not name.startswith("_")} - {"run", "close"}


def test_every_method_of_the_client_has_an_operation() -> None:
    with Client("127.0.0.1:1") as client:
        groups = {name: getattr(client, name) for name in ("items", "interactions", "users")}
    found = methods(Client) | {f"{group}.{name}" for group, of in groups.items() for name in methods(type(of))}
    assert set(OPERATIONS_OF) == found
    assert methods(AsyncClient) == methods(Client)
    assert set(OPERATIONS_OF.values()) <= {operation.name for operation in OPERATIONS}


def test_every_reference_leads_somewhere() -> None:
    for reference in set(references(DOCUMENT)):
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    assert len(set(references(DOCUMENT))) > 40


def test_names_are_unique_and_the_document_is_served(http: TestClient) -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert http.get("/v1/openapi.json").json() == json.loads(json.dumps(DOCUMENT))


def test_schemas_are_those_of_the_contract() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    behaviour = schemas["Behaviour"]
    assert behaviour["additionalProperties"] is False
    assert behaviour["properties"]["weight"]["description"].startswith("w_j")
    assert schemas["And"]["properties"]["of"]["items"]["discriminator"]["propertyName"] == "op"
    assert schemas["ItemChanged"]["properties"]["status"]["description"].startswith("`created`")


@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one.example], ids=lambda one: str(one.name))
def test_examples_are_of_their_types(operation: Any) -> None:
    kind = operation.body or operation.query
    msgspec.convert(operation.example, kind)
