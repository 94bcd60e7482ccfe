from __future__ import annotations

import json
import shlex

import pytest

from recserve_client import Behaviour, RecommendRequest, item, text
from recserve_client.contract import models
from recserve_client.contract.filters import Eq
from recserve_console.views.parts.copies import as_curl, as_json, as_python
from support.inference_server import InferenceServer

REQUEST = RecommendRequest([item('it\'s "quoted"', 0.5), text("a heist, $HOME `x`")], k=3, where=Eq("year", 1990))


def test_json_and_curl_are_the_request() -> None:
    body = json.loads(as_json(REQUEST))
    assert [Behaviour(**one) for one in body["history"]] == REQUEST.history
    words = shlex.split(as_curl(REQUEST))
    assert words[0] == "curl"
    assert json.loads(words[-1]) == body


def test_the_python_program_sends_the_request(
    server: InferenceServer, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(as_python(REQUEST, address), {})
    assert "recommendation_id='r'" in capsys.readouterr().out
    (sent,) = server.requests
    assert sent.model_name == models.RECOMMEND
    request = json.loads(sent.raw_input_contents[0][4:])
    assert request.pop("accept") == "msgpack"  # the client asks for it by itself
    assert request == json.loads(as_json(REQUEST))
