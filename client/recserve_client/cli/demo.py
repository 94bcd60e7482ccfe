"""`recserve demo`: from nothing to recommended films, by the commands a user would type."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import typer

from recserve_client.cli.console import fail, note, out

if TYPE_CHECKING:
    from recserve_client.client import Client
    from recserve_client.contract import Behaviour, Slate

app = typer.Typer(help="From nothing to recommended films on a real Triton, then stop.")

_HOME = Path(".recserve")
_START_S = 180.0
_STOP_S = 60.0
_K = 5

#: Three users: item ids of the films, texts in quotes, and weights.
_USERS: tuple[tuple[str, tuple[tuple[str, str, float], ...]], ...] = (
    ("likes family animation", (("item", "tt0114709", 1), ("item", "tt0266543", 1), ("item", "tt0198781", 1))),
    ("likes space", (("item", "tt0076759", 1), ("item", "tt0078748", 1), ("text", "a voyage to a distant planet", 1))),
    (
        "likes crime, no romance",
        (("item", "tt0068646", 1), ("text", "a heist goes wrong", 1), ("text", "romance", -0.3)),
    ),
)


class _Shown(NamedTuple):
    history: list[Behaviour]
    names: dict[str, str]
    slate: Slate


@app.callback(invoke_without_command=True)
def demo(
    home: Annotated[Path, typer.Option(help="Folder to work in; what is there already is reused.")] = _HOME,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")] = None,
) -> None:
    """From nothing to recommended films on a real Triton, then stop."""
    timings: dict[str, float] = {}
    for step, words in (
        ("export", ("export", "encoder")),
        ("import", ("catalogue", "import", "films")),
        ("index", ("index", "build")),
    ):
        with _timed(timings, step):
            _run([*words, "--home", str(home)])
    with _served(home, timings) as address:
        from recserve_client.client import Client

        with Client(address) as client, _timed(timings, "recommend"):
            shown = [_recommend(client, title, history) for title, history in _USERS]
            server = client.server_info()
        result = _result(server, home, shown, timings)
    note("\nThe server is stopped. Keep one running with:\n    recserve serve")
    note('and call it with:\n    recserve recommend --item tt0076759 --text "a voyage to a distant planet"')
    note("or from Python: see README.md")
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _program(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "recserve_client.cli.main", *words]


def _run(words: list[str]) -> None:
    note(f"\n$ recserve {' '.join(words)}")
    code = subprocess.run(_program(words), check=False).returncode
    if code:
        fail(f"recserve {words[0]} {words[1]} failed with exit code {code}", code=code)


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[step] = round(time.perf_counter() - start, 3)


@contextmanager
def _served(home: Path, timings: dict[str, float]) -> Iterator[str]:
    """Run `recserve serve` on free ports; yields its address and stops it, whatever happens."""
    words = ["serve", "--home", str(home), "--grpc-port", "0", "--metrics-port", "0"]
    note(f"\n$ recserve {' '.join(words)}")
    with tempfile.TemporaryDirectory() as aside:
        ready = Path(aside) / "ready.json"
        process = subprocess.Popen(_program([*words, "--ready-file", str(ready)]), stderr=subprocess.PIPE, text=True)
        try:
            with _timed(timings, "start"):
                _wait(process, ready)
            yield json.loads(ready.read_text())["grpc"]
        finally:
            with _timed(timings, "stop"):
                process.send_signal(signal.SIGTERM)
                try:
                    process.communicate(timeout=_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()


def _wait(process: subprocess.Popen[str], ready: Path) -> None:
    deadline = time.monotonic() + _START_S
    while not ready.exists():
        if process.poll() is not None:
            _, errors = process.communicate()
            fail(f"the server did not start: {errors.strip()[-600:]}")
        if time.monotonic() > deadline:
            fail(f"the server was not ready after {_START_S:.0f} s")
        time.sleep(0.05)


def _recommend(client: Client, title: str, described: Sequence[tuple[str, str, float]]) -> _Shown:
    from recserve_client.calls import item, text
    from recserve_client.cli.slate_table import slate_table

    history = [item(name, weight) if kind == "item" else text(name, weight) for kind, name, weight in described]
    names = _titles(client, [name for kind, name, _ in described if kind == "item"])
    slate = client.recommend(history, k=_K, fields=["title", "year"], deadline_s=30)
    labels = ", ".join(
        f"{'not ' if weight < 0 else ''}{names.get(name, name) if kind == 'item' else chr(34) + name + chr(34)}"
        for kind, name, weight in described
    )
    out.print(f"\n[bold]A user who {title}:[/] {labels}", highlight=False, soft_wrap=True)
    out.print(slate_table(slate, history, names))
    return _Shown(history, names, slate)


def _titles(client: Client, ids: Sequence[str]) -> dict[str, str]:
    """Titles of items: each is its own nearest neighbour."""
    from recserve_client.calls import item
    from recserve_client.cli.slate_table import title_of

    titles = {}
    for name in ids:
        slate = client.recommend([item(name)], k=3, exclude_history=False, fields=["title"], deadline_s=30)
        titles.update({found.id: title_of(found) for found in slate.items if found.id == name})
    return titles


def _result(server: Any, home: Path, shown: Sequence[_Shown], timings: dict[str, float]) -> dict[str, Any]:
    from recserve_client.cli.slate_table import title_of
    from recserve_server_ext.snapshot import current
    from recserve_server_ext.snapshot_manifest import read_manifest
    from recserve_server_ext.workspace import Workspace

    manifest = read_manifest(current(Workspace(home).snapshots), verify=False)
    return {
        "server": {"name": server.name, "version": server.version},
        "encoder": {"fingerprint": manifest.encoder, "dim": manifest.dim},
        "catalogue": {"items": manifest.items, "revision": manifest.revision},
        "recommendations": [
            {
                "history": [behaviour.item or behaviour.text for behaviour in history],
                "items": [
                    {
                        "id": found.id,
                        "title": title_of(found),
                        "score": found.score,
                        "contributions": {
                            str(behaviour.item or behaviour.text): share
                            for behaviour, share in zip(history, _shares(found), strict=True)
                        },
                    }
                    for found in slate.items
                ],
            }
            for history, _, slate in shown
        ],
        "timings_s": timings,
    }


def _shares(found: Any) -> list[float]:
    return [] if found.contributions is msgspec.UNSET else list(found.contributions)
