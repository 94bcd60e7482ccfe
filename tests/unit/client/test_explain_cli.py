"""`recserve explain` without a real server: what it asks, what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from recserve_client.cli import explain
from recserve_client.contract import Slate, SlateItem, SlateWalk, WalkItem, WalkServed, WalkSource, WalkStage, pack
from support.inference_server import SLATE, InferenceServer

WALK = SlateWalk(
    asked="auto",
    stages=[WalkStage("resolve", 120), WalkStage("candidates", 2500, 400), WalkStage("explain", 30, 1)],
    sources=[
        WalkSource("strategy", "blend", 400, 1),
        WalkSource("part", "item_knn", 100, 1),
        WalkSource("quota", "late", 5, 0, 1),
        WalkSource("pins", "pins", 1, 0),
    ],
    items=[
        WalkItem("i[1]", "outranked", "11 candidates rank before it, and 10 were chosen", ["item_knn"], 12, 0.5),
        WalkItem("gone", "not_in_catalogue", "the catalogue has no such item at revision 3"),
    ],
    served=WalkServed("20260101T000000-0", {"als": "20260101T000000-1"}, {"first": "0123abcd"}),
    cold="no usable interaction",
)
ANSWER = msgspec.structs.replace(SLATE, items=[SlateItem("a", 0.5)], strategy="blend", walk=WALK)


def ask(*words: str, content: str | bytes = "") -> Result:
    program = typer.Typer()
    program.command()(explain.explain)
    return CliRunner().invoke(program, list(words), input=content)


def test_the_request_is_sent_with_the_items_to_explain(server: InferenceServer, address: str, tmp_path: Path) -> None:
    server.answer = pack(ANSWER)
    path = tmp_path / "request.json"
    path.write_text('{"history": [{"item": "x"}], "k": 3, "walk": {"items": ["a"]}}')
    result = ask(str(path), "--why-not", "b", "--why-not", "a", "--address", address, "--json")
    assert result.exit_code == 0, result.stderr
    sent = json.loads(server.requests[-1].raw_input_contents[0][4:])
    assert sent.pop("accept") == "msgpack"
    assert sent == {"history": [{"item": "x"}], "k": 3, "walk": {"items": ["a", "b"]}}
    assert msgspec.json.decode(result.stdout, type=Slate) == ANSWER


def test_stages_sources_and_verdicts_are_printed(server: InferenceServer, address: str) -> None:
    server.answer = pack(ANSWER)
    result = ask("-", "--address", address, content='{"user_id": "ann"}')
    assert result.exit_code == 0, result.stderr
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "strategy auto -> blend, revision" in lines[0]
    shown = (
        "snapshot 20260101T000000-0, als 20260101T000000-1",
        "the profile is not usable: no usable interaction", "resolve 0.12", "candidates 2.50 400", "explain 0.03 1",
        "blend 400 1", "part item_knn 100 1", "quota late, interest 1 5 0", "pins 1 0",
        "i[1]: outranked, rank 12, score 0.5", "11 candidates rank before it, and 10 were chosen",
        "proposed by item_knn", "gone: not_in_catalogue",
    )  # fmt: skip
    assert [line for line in shown if line not in lines] == []


@pytest.mark.parametrize(
    ("content", "named"), [("{", "no request"), ('{"kk": 3}', "kk"), ('{"k": "3"}', "$.k"), ("\xff", "no request")]
)
def test_what_is_no_request_is_refused(content: str, named: str) -> None:
    result = ask("-", content=content.encode("latin-1"))
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: - is no request")
    assert named in line


def test_a_file_that_is_missing() -> None:
    result = ask("nowhere.json")
    assert result.exit_code == 2
    assert "nowhere.json cannot be read: No such file" in result.stderr


def test_an_answer_without_a_walk(server: InferenceServer, address: str) -> None:
    server.answer = pack(SLATE)
    result = ask("-", "--address", address, content='{"user_id": "ann"}')
    assert result.exit_code == 1
    assert "no walk" in result.stderr


def test_nobody_listens() -> None:
    assert ask("-", "--address", "127.0.0.1:1", content='{"user_id": "ann"}').exit_code == 3


def test_the_walk_of_an_earlier_recommendation(server: InferenceServer, address: str) -> None:
    server.answer = pack(ANSWER)
    result = ask("--recommendation", "r1", "--why-not", "b", "--address", address)
    assert result.exit_code == 0, result.stderr
    sent = json.loads(server.requests[-1].raw_input_contents[0][4:])
    assert sent == {"accept": "msgpack", "walk": {"items": ["b"], "recommendation_id": "r1"}}
    assert "worked out now" in result.stdout


@pytest.mark.parametrize("words", [(), ("-", "--recommendation", "r1")])
def test_one_request_is_explained(words: tuple[str, ...]) -> None:
    result = ask(*words)
    assert result.exit_code == 2
    assert "either a REQUEST or --recommendation" in result.stderr
