"""The `recserve` program without a real server: tables, errors and exit codes; and how the demo ends its server."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import typer
from typer.testing import CliRunner, Result

from recserve_client.cli import demo, demo_log, main, recommend
from recserve_client.contract import (
    EmbedResponse,
    EmbedTimings,
    ErasureReceipt,
    InteractionsRecorded,
    LoggedAnswer,
    Slate,
    SlateItem,
    UsedBehaviour,
    UserExport,
    pack,
)
from support.inference_server import SLATE, InferenceServer

_USAGE, _REFUSED, _UNREACHABLE = 2, 1, 3


def ask(*words: str) -> Result:
    return CliRunner().invoke(recommend.app, list(words))


def sent(server: InferenceServer) -> dict[str, Any]:
    return dict(json.loads(server.requests[-1].raw_input_contents[0][4:]))


def slate(*items: SlateItem) -> bytes:
    return pack(msgspec.structs.replace(SLATE, items=list(items)))


def test_options_become_a_weighted_history(server: InferenceServer, address: str) -> None:
    server.answer = slate()
    words = ["--item", "a", "--item", "b=2.5", "--text", "x = y", "--not-item", "c=2", "--not-text", "z", "-k", "3"]
    result = ask("--address", address, *words, "--exclude", "d", "--field", "year")
    assert result.exit_code == 0, result.stderr
    assert sent(server) == {
        "history": [
            {"item": "a", "weight": 1.0},
            {"item": "b", "weight": 2.5},
            {"text": "x = y"},
            {"item": "c", "weight": -2.0},
            {"text": "z", "weight": -1.0},
        ],
        "k": 3,
        "exclude": ["d"],
        "fields": ["year"],
        "accept": "msgpack",
    }


def test_the_table_fits_and_says_why(server: InferenceServer, address: str) -> None:
    fields = {"title": "A [bold] title " * 9, "year": 1977, "genre": ["drama", "war"]}
    server.answer = slate(SlateItem("i" * 60, 0.5, [0.1, -0.2, 0.6], fields), SlateItem("b", 0.25, [0.25, 0.0, 0.0]))
    words = ["--item", "first", "--text", "second " * 20, "--item", "third"]
    result = ask("--address", address, *words, "--field", "title", "--field", "year", "--field", "genre")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [name in lines[0] for name in ("title", "id", "year", "genre", "score", "why")] == [True] * 6
    # The id is folded, not cut.
    assert sum(line.count("i" * 12) for line in lines) == 5
    assert "[bold]" in result.stdout
    assert result.stdout.index("+0.60") < result.stdout.index("-0.20") < result.stdout.index("+0.10")


def test_a_table_without_titles_has_no_column_for_them(server: InferenceServer, address: str) -> None:
    server.answer = slate(SlateItem("a", 0.5, [0.5], {"year": 1977}))
    result = ask("--address", address, "--item", "x", "--field", "year")
    assert "title" not in result.stdout
    assert "1977" in result.stdout


def test_a_user_by_id_has_a_session_and_a_strategy(server: InferenceServer, address: str) -> None:
    used = [UsedBehaviour(0.5, "session", "a"), UsedBehaviour(0.5, "long_term", "b")]
    item = SlateItem("c", 0.9, [0.4, 0.2], {"title": "C"}, parts={"text": 0.6, "popular": 0.3})
    server.answer = pack(msgspec.structs.replace(SLATE, items=[item], history=used, strategy="blend"))
    words = ["--user", "ann", "--item", "a", "--strategy", "blend", "--option", "prior=2.5", "--option", "by=rank"]
    result = ask("--address", address, *words)
    assert result.exit_code == 0, result.stderr
    assert sent(server) == {
        "user_id": "ann", "session": [{"item": "a", "weight": 1.0}], "strategy": "blend",
        "options": {"prior": 2.5, "by": "rank"}, "fields": ["title"], "mix": 0.5, "accept": "msgpack",
    }  # fmt: skip
    shown = ("parts", "+0.60 text", "+0.30", "popular", "+0.40 a", "+0.20 b")
    assert [name for name in shown if name not in result.stdout] == []
    assert "strategy blend" in result.stderr


def test_what_is_known_to_nobody_has_facts(server: InferenceServer, address: str) -> None:
    item = SlateItem("c", 0.9, fields={"title": "C"}, facts={"users": 1200, "window_s": None})
    server.answer = pack(msgspec.structs.replace(SLATE, items=[item], strategy="popular"))
    result = ask("--address", address, "--user", "ann")
    assert "users 1,200" in result.stdout
    assert "parts" not in result.stdout


def test_json_is_the_slate(server: InferenceServer, address: str) -> None:
    result = ask("--address", address, "--item", "x", "--text", "y", "--json")
    assert msgspec.json.decode(result.stdout, type=Slate) == SLATE


@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "too_large: 9\n[bold]", _REFUSED),
        (grpc.StatusCode.NOT_FOUND, "unknown_item: 'x'", _REFUSED),
        (grpc.StatusCode.INTERNAL, "Stub process is not healthy", _REFUSED),
        (grpc.StatusCode.UNAVAILABLE, "unavailable: busy", _UNREACHABLE),
    ],
)
def test_errors_are_one_line(
    server: InferenceServer, address: str, status: grpc.StatusCode, message: str, code: int
) -> None:
    server.refusals = [(status, message)] * 4
    result = ask("--address", address, "--item", "x")
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert " ".join(message.split()).rpartition(": ")[2] in line


def test_nobody_listens() -> None:
    result = ask("--address", "127.0.0.1:1", "--item", "x")
    assert result.exit_code == _UNREACHABLE
    (line,) = result.stderr.splitlines()
    assert "no answer from 127.0.0.1:1" in line
    assert "is `recserve serve` running there?" in line


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "--item"),
        (["--not-item", "a=-1"], "a=1"),
        (["-k", "many"], "-k"),
        (["--item", "a", "--option", "x"], "NAME=VALUE"),
    ],
)
def test_wrong_usage(words: list[str], named: str) -> None:
    result = ask(*words)
    assert result.exit_code == _USAGE
    assert named in result.stderr


# The program


@pytest.mark.parametrize("command", ["recommend", "demo"])
def test_help_of_plain_commands_asks_for_no_further_name(command: str) -> None:
    result = CliRunner().invoke(main.build_app(), [command, "--help"], env={"TERM": "dumb", "COLUMNS": "100"})
    assert result.exit_code == 0
    assert f"recserve {command} [OPTIONS]" in " ".join(result.stdout.split()).replace("root", "recserve")
    assert "COMMAND" not in result.stdout


def test_a_room_that_cannot_be_imported_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("index", "recserve_export.not_there:app", main.GROUP)
    monkeypatch.setattr(main, "_entries", lambda: {"index": entry})
    for words in (["index"], ["index", "build", "--home", "x"]):
        result = CliRunner().invoke(main.build_app(), words)
        assert result.exit_code == 1
        assert "pip install 'recserve[export]'" in result.stderr


def program(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    """Make `recserve serve` need a module while it runs."""
    app = typer.Typer()

    @app.command("serve")
    def serve() -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    app.callback()(lambda: None)
    monkeypatch.setattr(main, "build_app", lambda _command: app)
    monkeypatch.setattr(sys, "argv", ["recserve", "serve"])


def test_a_module_missing_at_run_time_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program(monkeypatch, "pyarrow.parquet")
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 1
    assert "needs the module 'pyarrow.parquet': pip install 'recserve[serve]'" in capsys.readouterr().err


def test_a_module_of_our_own_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "recserve_server_ext.not_there")
    with pytest.raises(ModuleNotFoundError):
        main.main()


# The demo: the commands it runs are a small program, the server it asks is the one above.

_COMMANDS = """
import json, pathlib, signal, sys
words, folder = sys.argv[1:], pathlib.Path(__file__).parent
with (folder / "ran").open("a") as ran:
    ran.write(" ".join(words[:2]) + "\\n")
if words[:2] == ["catalogue", "stats"]:
    print(json.dumps({"items": 7}))
if words[0] == "serve":
    def end(*_):
        (folder / "ended").touch()
        sys.exit(int((folder / "code").read_text()))
    signal.signal(signal.SIGTERM, end)
    if (folder / "code").read_text() == "5":
        sys.exit("no Triton here")
    ready = pathlib.Path(words[words.index("--ready-file") + 1])
    aside = ready.with_suffix(".aside")
    aside.write_text(json.dumps({"grpc": (folder / "address").read_text()}))
    aside.rename(ready)
    signal.pause()
"""


@pytest.fixture
def commands(tmp_path: Path, address: str, server: InferenceServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of the stand-in for the other rooms' commands."""
    monkeypatch.setattr(demo_log, "fetched", lambda folder: False)
    (tmp_path / "commands.py").write_text(_COMMANDS)
    (tmp_path / "address").write_text(address)
    (tmp_path / "code").write_text("0")
    monkeypatch.setattr(demo, "_program", lambda words: [sys.executable, str(tmp_path / "commands.py"), *words])
    server.answer = slate(SlateItem("a", 0.5, [0.1, 0.2, 0.2], {"title": "A"}))
    server.answers["embed"] = pack(EmbedResponse("AACAPwAAAAA=", 1, 2, "f", EmbedTimings(0, 0, 0)))
    of_user = msgspec.structs.replace(SLATE, items=[SlateItem("a", 0.5, [0.5], {"title": "A"})])
    used = [UsedBehaviour(1.0, "long_term", "tt0076759")]
    logged = LoggedAnswer(of_user.recommendation_id, 1.0, ["a"], "text", 1.0, 1, "f")
    server.answers_to = {
        b'"op":"record"': pack(InteractionsRecorded([])),
        b'"op":"export"': pack(UserExport("p", [], [], [logged])),
        b'"op":"erase"': pack(ErasureReceipt(1.0, 4, 2.0, "proof")),
        b'"user_id":"196"': pack(msgspec.structs.replace(of_user, history=used, strategy="item_knn")),
        b'"user_id":"demo-': pack(msgspec.structs.replace(of_user, history=used, history_rules="r")),
    }
    return tmp_path


def run_demo(folder: Path) -> Result:
    return CliRunner().invoke(demo.app, ["--home", str(folder / "home"), "--json", str(folder / "result.json")])


def test_the_demo_runs_the_commands_and_writes_its_results(commands: Path) -> None:
    result = run_demo(commands)
    assert result.exit_code == 0, result.stderr
    ran = (commands / "ran").read_text().splitlines()
    before = ["export encoder", "catalogue import", "index build", "serve --home"]
    assert ran == [*before, "outcomes report", "catalogue stats"]
    assert (commands / "ended").exists()
    assert f"recserve serve --home {commands / 'home'}" in result.stderr
    written = json.loads((commands / "result.json").read_text())
    assert written["server"] == {"name": "triton", "version": "2.51.0"}
    assert (written["encoder"], written["catalogue"]) == ({"fingerprint": "f", "dim": 2}, {"items": 7})
    assert set(written["timings_s"]) == {
        *("export", "import", "index", "start", "recommend", "user", "stop", "second_scene"),
    }
    assert written["movielens"] is None
    assert "this scene is left out" in result.stderr
    assert [len(recommendation["history"]) for recommendation in written["recommendations"]] == [3, 3, 3]
    assert written["user"] == {"watched": ["tt0076759", "tt0078748", "tt0816692"], "recommended": ["a"], "clicked": "a"}
    assert "4 interactions" in result.stdout
    (item,) = written["recommendations"][2]["items"]
    contributions = {"tt0068646": 0.1, "a heist goes wrong": 0.2, "romance": 0.2}
    assert item == {"id": "a", "title": "A", "score": 0.5, "contributions": contributions}


def test_the_second_scene_evaluates_a_log_and_serves_what_was_best(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo_log, "fetched", lambda folder: True)
    (commands / "home").mkdir()
    for _ in range(2):  # again over what is there
        (commands / "ran").unlink(missing_ok=True)
        result = run_demo(commands)
        assert result.exit_code == 0, result.stderr
        ran = (commands / "ran").read_text().splitlines()
        trainings = [f"train {name}" for name in ("als", "ease", "item_knn", "transitions")]
        second = ["catalogue import", "interactions import", *trainings, "index build", "evaluate --quick"]
        assert ran[-10:-1] == [*second, "serve --home"]
    assert "User 196 comes back, likes 50, and is served by auto: item_knn" in " ".join(result.stdout.split())
    written = json.loads((commands / "result.json").read_text())
    assert written["movielens"] == {"user": "196", "strategy": "item_knn", "recommended": ["a"]}
    assert (commands / "home" / "movielens" / "encoder").readlink() == Path("../encoder")


def test_the_demo_ends_its_server_when_it_fails(commands: Path, server: InferenceServer) -> None:
    server.refusals = [(grpc.StatusCode.NOT_FOUND, "unknown_item: 'tt0114709'")]
    result = run_demo(commands)
    assert result.exit_code == 1
    assert "error: the server did not recommend: 'tt0114709'" in result.stderr
    assert (commands / "ended").exists()


def test_the_demo_ends_its_server_on_ctrl_c(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_recommendations", interrupted)
    assert run_demo(commands).exit_code == 130
    assert (commands / "ended").exists()


@pytest.mark.parametrize(("code", "said"), [("3", "ended with exit code 3"), ("5", "did not start: no Triton here")])
def test_the_demo_says_when_its_server_fails(commands: Path, code: str, said: str) -> None:
    (commands / "code").write_text(code)
    result = run_demo(commands)
    assert result.exit_code == 1
    assert f"error: the server {said}" in result.stderr


def test_the_demo_wants_a_place_for_its_results_first(commands: Path) -> None:
    result = CliRunner().invoke(demo.app, ["--json", str(commands / "none" / "result.json")])
    assert result.exit_code == _USAGE
    assert str(commands / "none") in result.stderr
    assert not (commands / "ran").exists()


def test_filters_and_slate_options(server: InferenceServer, address: str) -> None:
    server.answer = pack(msgspec.structs.replace(SLATE, items=[], count=1234))
    words = ["--where", 'year >= 1990 and "Drama" in genre', "--count", "--group", "director=2", "--diversify", "0.3"]
    words += ["--min-score", "0.2", "--boost-recency", "year:10:0.1", "--now", "2026", "--pin", "tt=1=3"]
    result = ask("--address", address, "--item", "a", *words, "--boost-popularity", "votes:0.05")
    assert result.exit_code == 0, result.stderr
    assert "1,234 items match" in result.stdout
    assert sent(server)["where"]["of"][1] == {"op": "contains", "attribute": "genre", "value": "Drama"}
    assert sent(server)["slate"] == {
        "diversify": 0.3,
        "min_score": 0.2,
        "groups": [{"attribute": "director", "at_most": 2}],
        "boosts": [
            {"by": "recency", "attribute": "year", "half_life": 10.0, "weight": 0.1, "now": 2026.0},
            {"by": "popularity", "attribute": "votes", "weight": 0.05},
        ],
        "pins": [{"item": "tt=1", "place": 3}],
    }
    ask("--address", address, "--item", "a")
    assert "slate" not in sent(server)


def test_the_table_shows_rules_only_where_there_are_any(server: InferenceServer, address: str) -> None:
    fields = {"title": "A long title " * 9}
    ruled = SlateItem("a" * 20, 0.6, [0.5], fields, boosts=[0.125, -0.025], rules=["launch of the [year]"])
    server.answer = slate(ruled, SlateItem("b", 0.25, [0.25], fields, boosts=[0.0, 0.0]))
    result = ask("--address", address, "--item", "x")
    assert max(map(len, result.stdout.splitlines())) <= 100
    assert "rules" in result.stdout.splitlines()[0]
    assert "+0.12" in result.stdout
    assert "[year]" in result.stdout
    server.answer = slate(SlateItem("b", 0.25, [0.25], fields))
    assert "rules" not in ask("--address", address, "--item", "x").stdout


@pytest.mark.parametrize(
    ("option", "word", "said"),
    [
        ("--group", "director", "ATTRIBUTE=N"),
        ("--group", "director=0", ">= 1"),
        ("--boost-recency", "year:0:1", "> 0"),
        ("--boost-recency", "year:1", "ATTRIBUTE:HALF_LIFE:WEIGHT"),
        ("--boost-popularity", "votes:much", "ATTRIBUTE:WEIGHT"),
        ("--pin", "a=first", "ID=PLACE"),
        ("--where", "year = oops", "a value is expected"),
    ],
)
def test_words_that_cannot_be_read(server: InferenceServer, address: str, option: str, word: str, said: str) -> None:
    result = ask("--address", address, "--item", "a", option, word)
    assert result.exit_code == _USAGE
    assert said in result.stderr
    assert option in result.stderr
    assert not server.requests
