"""`recserve train`: learns strategies from the log of the home, and fine-tunes its encoder."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer

from recserve_client.cli.console import fail, note
from recserve_export.cli import options
from recserve_export.cli.common import explained, history_rules, interactions_at, say, stage_bar
from recserve_server_ext.common.priority import yield_to_others
from recserve_server_ext.common.workspace import DEFAULT_HOME, Workspace

_ENCODER: Final = "encoder"
_SENTIMENT: Final = "sentiment"
_VECTORS: Final = "vectors"

app = typer.Typer(help="Learn strategies from the log of the home, or fine-tune its encoder.")


@app.callback(invoke_without_command=True)
def train(
    name: Annotated[
        str,
        typer.Argument(
            help="Name of a training, `all`, `encoder`, `sentiment` of comments, or `vectors` for vectors of your own."
        ),
    ],
    home: options.Home = DEFAULT_HOME,
    store: Annotated[
        str,
        typer.Option(
            help="URL of the interaction store; of the catalogue store for `vectors`.",
            show_default="the file in the home",
        ),
    ] = "",
    since: Annotated[datetime | None, typer.Option(help="Leave out older interactions (UTC).")] = None,
    until: Annotated[datetime | None, typer.Option(help="Leave out interactions from this time on (UTC).")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of everything random.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE, or TRAINING.NAME=VALUE: a setting of a training; repeatable."),
    ] = None,
    rules: options.Rules = None,
    budget_s: Annotated[
        float | None,
        typer.Option(min=0.0, help="Seconds after which no further training is started; encoder: after which it ends."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Serve it even if it is worse than what serves now.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="encoder: what to train; vectors: what reads files.", show_default="all-MiniLM-L6-v2"),
    ] = None,
    keep: Annotated[
        float,
        typer.Option(min=-1.0, max=1.0, help="encoder: least agreement with the first one on unrelated sentences."),
    ] = 0.9,
    vectors: Annotated[Path | None, typer.Option("--from", help="vectors: Parquet file with your own.")] = None,
    id_field: options.IdField = "id",
    vector_field: Annotated[str, typer.Option(help="vectors: column of the vectors.")] = "vector",
    image: Annotated[str | None, typer.Option(help="vectors: field with the path of a picture.")] = None,
    audio: Annotated[str | None, typer.Option(help="vectors: field with the path of a recording.")] = None,
    files: Annotated[Path, typer.Option(help="vectors: folder that these paths are relative to.")] = Path(),
    graph: Annotated[Path | None, typer.Option(help="vectors: triples of a knowledge graph, a .kg file.")] = None,
    links: Annotated[Path | None, typer.Option(help="vectors: items and entities of the graph, a .link file.")] = None,
    weight: Annotated[float, typer.Option(min=0.0, help="vectors: how much neighbours in the graph count.")] = 0.5,
    space: Annotated[str, typer.Option(help="vectors: name of the space.")] = "vectors",
) -> None:
    """Learn NAME from the log, and serve it unless the newest slice of the log shows that it is worse than before.

    The same command goes on where a killed one was.
    """
    workspace, place = Workspace(home), interactions_at(home, store)
    span = (since, until)
    if name != _VECTORS and any((vectors, image, audio, graph)):
        fail(f"--from, --image, --audio and --graph belong to `recserve train {_VECTORS}`", code=2)
    # Before numpy and torch start threads, which keep their priority.
    yield_to_others()
    with explained(OSError):
        try:
            if name == _ENCODER:
                from recserve_export.cli.train.encoder import encoder

                given = {"seed": seed, **dict(map(_setting, set_ or []))}
                encoder(workspace, place, given, history_rules(rules), span, model, budget_s, keep)
            elif name == _SENTIMENT:
                from recserve_export.cli.train.sentiment import sentiment

                given = {"seed": seed, **dict(map(_setting, set_ or []))}
                sentiment(workspace, place, given, history_rules(rules), span, force=force)
            elif name == _VECTORS:
                from recserve_export.cli.train.vectors import VectorSource, train_vectors

                source = VectorSource(
                    file=vectors, id_field=id_field, vector_field=vector_field, image=image, audio=audio, files=files,
                    model=model, graph=graph, links=links, weight=weight,
                )  # fmt: skip
                train_vectors(workspace, store, source, space)
            else:
                _from_log(workspace, place, name, seed, set_ or [], rules, span, budget_s, force)
        except ModuleNotFoundError as error:
            fail(f"recserve train needs the module {error.name!r}: pip install 'recserve[train]'")
        if name != _ENCODER:
            from recserve_server_ext.index.pointers import published

            if not published(workspace.snapshots):
                note("serve it with: recserve index build")


def _from_log(
    workspace: Workspace,
    place: Path | str,
    name: str,
    seed: int,
    given: list[str],
    rules: Path | None,
    span: tuple[datetime | None, datetime | None],
    budget_s: float | None,
    force: bool,
) -> None:
    """Train strategies from the log."""
    from recserve_export.training.publish import Range, Request, names_of, train_home
    from recserve_server_ext.index.pointers import published

    names = names_of(name, has_text=bool(published(workspace.snapshots)))
    settings = {of: {"seed": seed, **chosen} for of, chosen in _settings(name, names, given).items()}
    request = Request(
        names=names, settings=settings, rules=history_rules(rules), span=Range(*span), budget_s=budget_s, force=force
    )
    done = train_home(workspace, place, request, stage=stage_bar)
    for one in done.published:
        say(f"{one.name}: {one.size}, {one.seconds:.1f} s, in {one.folder}")
        note(f"{one.name} {'serves' if one.verdict.serves else 'does not serve'}: {one.verdict.why}")
    if done.left:
        note(f"the budget is spent; the same command goes on with {', '.join(done.left)}")


def _settings(asked: str, names: list[str], given: list[str]) -> dict[str, dict[str, Any]]:
    """The settings of each training."""
    from recserve_export.training.publish import ALL
    from recserve_export.training.registry import trainer_of

    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for one in given:
        training, dot, setting = one.partition("=")[0].rpartition(".")
        if not dot and len(names) > 1:
            fail(f"--set {one}: say of which training, as in TRAINING.{setting}=VALUE", code=2)
        name, value = _setting(one.removeprefix(training + dot))
        training = training or names[0]
        trainer_of(training)
        # `all` may leave one out, as those that need text vectors; its settings are for another time.
        if training not in found and asked != ALL:
            fail(f"--set {one}: what is trained is {names[0]}", code=2)
        found.setdefault(training, {})[name] = value
    return found


def _setting(given: str) -> tuple[str, Any]:
    name, equals, value = given.partition("=")
    if not equals:
        fail(f"--set {given}: NAME=VALUE is needed", code=2)
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
