"""The `recserve` program: one command, to which every installed room adds its sub-commands."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import typer

from recserve_client.cli.console import fail

GROUP = "recserve.commands"
_EXTRA_OF_ROOM = {
    "recserve_export": "export",
    "recserve_server_ext": "serve",
    "recserve_benchmarks": "bench",
    "recserve_client": "serve",
}


def build_app() -> typer.Typer:
    """The program with the sub-commands of every room; a room that cannot be imported says what to install."""
    app = typer.Typer(
        name="recserve",
        help="Recommendation inference on NVIDIA Triton.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        app.add_typer(_load(entry), name=entry.name)
    return app


def _root() -> None:
    """Export an encoder, import a catalogue, build an index, serve it on Triton, ask for recommendations."""


def _load(entry: EntryPoint) -> typer.Typer:
    try:
        loaded = entry.load()
    except ModuleNotFoundError as error:
        return _missing(entry, error.name or "?")
    assert isinstance(loaded, typer.Typer)
    return loaded


def _missing(entry: EntryPoint, module: str) -> typer.Typer:
    extra = _EXTRA_OF_ROOM[entry.module.partition(".")[0]]
    stub = typer.Typer(help=f"(needs: pip install 'recserve[{extra}]')")

    @stub.callback(
        invoke_without_command=True,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def explain() -> None:
        fail(f"recserve {entry.name} needs the module {module!r}: pip install 'recserve[{extra}]'")

    return stub


def main() -> None:
    """Entry point of the `recserve` program."""
    try:
        build_app()()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
