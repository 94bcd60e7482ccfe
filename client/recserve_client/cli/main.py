"""The `recserve` program: one command, to which every installed package adds its sub-commands."""

from __future__ import annotations

import os
import sys
from importlib.metadata import EntryPoint, entry_points

import typer
from rich.markup import escape

from recserve_client.cli.console import err, fail
from recserve_client.cpu_info import cpu_info

GROUP = "recserve.commands"
_EXTRA_OF_PACKAGE = {
    "recserve_export": "export",
    "recserve_server_ext": "serve",
    "recserve_benchmarks": "bench",
    "recserve_client": "serve,export",
    "recserve_console": "console",
}
_EXTRA_OF_COMMAND = {"http": "http"}
#: What OpenBLAS's kernels for `SkylakeX` need.
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"})


def build_app(command: str = "") -> typer.Typer:
    """The program with the sub-commands of all packages; one that cannot be imported tells what to install.

    Args:
        command: The only sub-command to import, where it is known: some take long to import.
    """
    app = typer.Typer(
        name="recserve",
        help="Recommendation inference on NVIDIA Triton.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    entries = _entries()
    for entry in [entries[command]] if command in entries else entries.values():
        try:
            _add(app, entry.name, entry.load())
        except ModuleNotFoundError as error:
            _add_missing(app, entry, error.name or "?")
    return app


def _root() -> None:
    """Export an encoder, import a catalogue, build an index, serve it on Triton, ask for recommendations."""


def _entries() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}


def _add(app: typer.Typer, name: str, sub_app: typer.Typer) -> None:
    """Add a sub-command; one without sub-commands of its own is a plain command."""
    single = sub_app.registered_callback
    if single is None or single.callback is None or sub_app.registered_commands or sub_app.registered_groups:
        app.add_typer(sub_app, name=name)
    else:
        app.command(name, help=sub_app.info.help)(single.callback)


def _add_missing(app: typer.Typer, entry: EntryPoint, module: str) -> None:
    """Add a command that tells what to install, whatever its arguments."""
    settings = {"allow_extra_args": True, "ignore_unknown_options": True}

    @app.command(entry.name, help=f"(needs: pip install 'recserve[{_extra(entry)}]')", context_settings=settings)
    def explain() -> None:
        fail(_needs(entry, module))


def _extra(entry: EntryPoint) -> str:
    return _EXTRA_OF_COMMAND.get(entry.name) or _EXTRA_OF_PACKAGE[entry.module.partition(".")[0]]


def _needs(entry: EntryPoint, module: str) -> str:
    return f"recserve {entry.name} needs the module {module!r}: pip install 'recserve[{_extra(entry)}]'"


def use_avx512() -> None:
    """Have numpy multiply matrices by AVX-512 where the CPU has it, in this process and in those that it starts.

    Its OpenBLAS goes by the model of the CPU, and takes AVX2 on models that are newer than itself. To be called before
    numpy is imported; OPENBLAS_CORETYPE in the environment overrules it.
    """
    if _AVX512.issubset(cpu_info("flags").split()):
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")


def main() -> None:
    """Entry point of the `recserve` program."""
    use_avx512()
    try:
        build_app(sys.argv[1] if len(sys.argv) > 1 else "")()
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        # Commands import heavy modules late, so a missing one may show only here.
        entry = _entries().get(sys.argv[1]) if len(sys.argv) > 1 else None
        module = error.name or "?"
        if entry is None or module.partition(".")[0] in _EXTRA_OF_PACKAGE:
            raise
        err.print(f"[bold red]error:[/] {escape(_needs(entry, module))}", soft_wrap=True, highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
