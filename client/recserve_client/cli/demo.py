"""`recserve demo`: runs the commands from an empty folder to recommended films, and then with a log of users."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer
from rich.progress import TaskID

from recserve_client.cli.console import TERMINATED, fail, note, out, progress

if TYPE_CHECKING:
    from recserve_client.client import Client
    from recserve_client.contract import Behaviour, Slate
    from recserve_client.server_calls import ServerInfo

_HELP = "Export an encoder, import films, build an index, serve it on Triton, and show recommendations."
app = typer.Typer(help=_HELP)

_HOME = Path(".recserve")
_START_S = 180.0
_STOP_S = 60.0
_DEADLINE_S = 30.0
_SHOWN_BYTES = 600
_K = 5

#: Three users: a description, and behaviours with their kind, item id or text, and weight.
_USERS: tuple[tuple[str, tuple[tuple[str, str, float], ...]], ...] = (
    ("likes family animation", (("item", "tt0114709", 1), ("item", "tt0266543", 1), ("item", "tt0198781", 1))),
    ("likes space", (("item", "tt0076759", 1), ("item", "tt0078748", 1), ("text", "a voyage to a distant planet", 1))),
    (
        "likes crime, no romance",
        (("item", "tt0068646", 1), ("text", "a heist goes wrong", 1), ("text", "romance", -0.3)),
    ),
)

#: Steps before serving: name and command.
_STEPS = (
    ("export", ("export", "encoder")),
    ("import", ("catalogue", "import", "films")),
    ("index", ("index", "build")),
)


class _Shown(NamedTuple):
    history: list[Behaviour]
    slate: Slate
    titles: dict[str, str]


@app.callback(invoke_without_command=True, help=_HELP)
def demo(
    home: Annotated[Path, typer.Option(help="Folder to work in; existing results in it are reused.")] = _HOME,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    from recserve_client.cli.demo_log import show_log
    from recserve_client.errors import RecserveError

    if json_file is not None and not json_file.resolve().parent.is_dir():
        fail(f"--json {json_file}: there is no folder {json_file.resolve().parent}; make it first", code=2)
    timings: dict[str, float] = {}
    with _ended_by_sigterm():
        for step, words in _STEPS:
            with _timed(timings, step):
                _run([*words, "--home", str(home)])
        try:
            with _served(home, timings) as address:
                shown, user, server, dim = _recommendations(address, home, timings)
            with _timed(timings, "second_scene"):
                of_log = show_log(home, _run, lambda own: _served(own, {}))
        except RecserveError as error:
            fail(f"the server did not recommend: {error.message}")
    if json_file is not None:
        result = {
            "server": {"name": server.name, "version": server.version},
            "encoder": {"fingerprint": server.encoder, "dim": dim},
            "catalogue": {"items": _items(home)},
            "recommendations": [_as_json(history, slate) for history, slate, _ in shown],
            "user": user,
            "movielens": of_log,
            "timings_s": timings,
        }
        json_file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    home_option = "" if home == _HOME else f" --home {shlex.quote(str(home))}"
    note(f"\nThe server is stopped. Keep one running with:\n    recserve serve{home_option}")
    note(f"or look at it in a browser, with a server of its own:\n    recserve console --serve{home_option}")
    note('and call it with:\n    recserve recommend --item tt0076759 --text "a voyage to a distant planet"')
    note("or from Python: see README.md")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C, so that the server is stopped too."""

    def leave(*_: object) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _program(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "recserve_client.cli.main", *words]


def _run(words: list[str]) -> None:
    note(f"\n$ recserve {shlex.join(words)}")
    code = subprocess.run(_program(words), check=False).returncode
    if code:
        fail(f"recserve {words[0]} {words[1]} failed with exit code {code}", code=max(code, 1))


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[step] = round(time.perf_counter() - start, 3)


@contextmanager
def _served(home: Path, timings: dict[str, float]) -> Iterator[str]:
    """Run `recserve serve` on free ports; yields its address, and always stops it."""
    words = ["serve", "--home", str(home), "--grpc-port", "0", "--metrics-port", "0"]
    note(f"\n$ recserve {shlex.join(words)}")
    with TemporaryDirectory() as folder:
        ready, log = Path(folder) / "ready.json", Path(folder) / "serve.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(_program([*words, "--ready-file", str(ready)]), stderr=sink)
        try:
            with _timed(timings, "start"), progress("starting the server", None) as bar:
                _wait(process, ready, log)
                bar.update(TaskID(0), total=1, completed=1)
            yield json.loads(ready.read_text())["grpc"]
        finally:
            with _timed(timings, "stop"):
                code = _stop(process)
        if code:
            fail(f"the server ended with exit code {code}: {_tail(log)}")


def _stop(process: subprocess.Popen[bytes]) -> int:
    """Stop the server, by force where it does not drain in time; returns its exit code."""
    process.terminate()
    try:
        return process.wait(_STOP_S)
    finally:
        # Also after a second Ctrl-C during the wait. Triton ends with its parent process.
        process.kill()
        process.wait()


def _wait(process: subprocess.Popen[bytes], ready: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not ready.exists():
        if process.poll() is not None:
            fail(f"the server did not start: {_tail(log)}")
        if time.monotonic() > deadline:
            fail(f"the server was not ready after {_START_S:.0f} s: {_tail(log)}")
        time.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-_SHOWN_BYTES:]


def _recommendations(
    address: str, home: Path, timings: dict[str, float]
) -> tuple[list[_Shown], dict[str, Any], ServerInfo, int]:
    from recserve_client.cli.demo_user import show_user
    from recserve_client.client import Client

    def report() -> None:
        out.file.flush()
        _run(["outcomes", "report", "--home", str(home)])

    with Client(address) as client:
        with _timed(timings, "recommend"):
            shown = [_recommend(client, title, behaviours) for title, behaviours in _USERS]
        with _timed(timings, "user"):
            user = show_user(client, {name: title for one in shown for name, title in one.titles.items()}, report)
        dim = client.embed(["probe"], deadline_s=_DEADLINE_S).shape[1]
        return shown, user, client.server_info(deadline_s=_DEADLINE_S), dim


def _recommend(client: Client, title: str, behaviours: Sequence[tuple[str, str, float]]) -> _Shown:
    from recserve_client.calls import item, text
    from recserve_client.cli.slate_table import label, slate_table, title_of

    history = [item(name, weight) if kind == "item" else text(name, weight) for kind, name, weight in behaviours]
    names = _titles(client, [name for kind, name, _ in behaviours if kind == "item"])
    slate = client.recommend(history, k=_K, fields=["title", "year"], deadline_s=_DEADLINE_S)
    labels = ", ".join(f"{'not ' if one.weight < 0 else ''}{label(one, names)}" for one in history)
    out.print(f"\n[bold]A user who {title}:[/] {labels}", highlight=False, soft_wrap=True)
    out.print(slate_table(slate, history, names))
    return _Shown(history, slate, names | {item.id: title_of(item) for item in slate.items})


def _titles(client: Client, ids: Sequence[str]) -> dict[str, str]:
    """Titles of items: each item is its own nearest neighbour."""
    from recserve_client.calls import item
    from recserve_client.cli.slate_table import title_of

    titles = {}
    for name in ids:
        slate = client.recommend([item(name)], k=3, exclude_history=False, fields=["title"], deadline_s=_DEADLINE_S)
        titles.update({nearest.id: title_of(nearest) for nearest in slate.items if nearest.id == name})
    return titles


def _items(home: Path) -> int:
    """Number of items of the catalogue, by `recserve catalogue stats`."""
    words = ["catalogue", "stats", "--json", "--home", str(home)]
    counted = subprocess.run(_program(words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    if counted.returncode:
        fail(f"recserve {shlex.join(words)} failed with exit code {counted.returncode}")
    return int(json.loads(counted.stdout)["items"])


def _as_json(history: Sequence[Behaviour], slate: Slate) -> dict[str, Any]:
    from recserve_client.cli.slate_table import title_of

    names = [str(behaviour.item or behaviour.text) for behaviour in history]
    items = []
    for item in slate.items:
        values = item.contributions if item.contributions is not msgspec.UNSET else []
        contributions = dict(zip(names, values, strict=True))
        items.append({"id": item.id, "title": title_of(item), "score": item.score, "contributions": contributions})
    return {"history": names, "items": items}
