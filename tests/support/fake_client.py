"""A client for tests of the HTTP API alone: it answers what a test tells it, and keeps what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from tritonclient.grpc import model_config_pb2, service_pb2

from recserve_client.calls import Call
from recserve_client.contract import ErrorKind, ItemsFound, bytes_element, models, pack
from recserve_client.errors import InvalidRequest
from support.inference_server import SLATE

R = TypeVar("R")


class FakeClient:
    """An `AsyncClient` without a server.

    Attributes:
        answers: What each model answers: a message, or an error to raise. A list is answered one by one.
        asked: The models that were asked, and what.
        deadlines: Deadline of each question.
        keys: Key of each question.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {models.RECOMMEND: SLATE, models.RECOMMEND_TEXT: SLATE}
        self.answers[models.ITEMS] = ItemsFound(1, [])
        self.answers[models.EMBED] = InvalidRequest(
            "$.texts is []", status="INVALID_ARGUMENT", kind=ErrorKind.INVALID_REQUEST
        )
        self.asked: list[tuple[str, Any]] = []
        self.raw: list[bytes] = []
        self.deadlines: list[float | None] = []
        self.keys: list[str] = []

    async def run(self, call: Call[R]) -> R:
        """The result of a call."""
        self.deadlines.append(call.deadline_s)
        self.keys.append(call.key)
        if call.method == "ModelConfig":
            config = model_config_pb2.ModelConfig()
            config.parameters["strategies"].string_value = self.answers["strategies"]
            return self._read(call, service_pb2.ModelConfigResponse(config=config))
        raw = call.request.raw_input_contents[0][4:]
        self.raw.append(raw)
        self.asked.append((call.request.model_name, _json(raw)))
        answer = self.answers[call.request.model_name]
        if isinstance(answer, list):
            answer = answer.pop(0)
        if isinstance(answer, Exception):
            if call.failed is not None:
                return call.failed(answer)  # type: ignore[arg-type]
            raise answer
        response = service_pb2.ModelInferResponse()
        response.raw_output_contents.append(bytes_element(pack(answer)))
        return self._read(call, response)

    def _read(self, call: Call[R], answer: Any) -> R:
        result = call.read(answer)
        assert not isinstance(result, Call)
        return result

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[FakeClient]:
        """The client, as the application opens it."""
        yield self


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def lines(raw: bytes) -> list[Any]:
    """The lines of a stream."""
    return [msgspec.json.decode(line) for line in raw.splitlines()]
