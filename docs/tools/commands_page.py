"""The page of the commands, from the `recserve` program."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, Final

import typer
from typer.models import ParameterInfo

from recserve_client.cli.main import build_app
from struct_tables import cell, table

_HEAD: Final = """\
# Commands

Every command explains itself with `--help`. Results go to standard output, progress and errors to standard error.
Exit codes are in [Errors](errors.md#exit-codes-of-the-commands).
"""
_WORD_OF: Final[dict[Any, str]] = {str: "text", int: "integer", float: "number", Path: "path"}


def commands_page() -> str:
    """The page as Markdown."""
    return "\n".join([_HEAD, *_command("recserve", typer.main.get_command(build_app()))])


def _command(name: str, command: Any) -> Iterator[str]:
    below = getattr(command, "commands", {})
    yield f"## {name}"
    yield ""
    yield inspect.cleandoc(command.help or "")
    yield ""
    if below:
        rows = [(_link(f"{name} {of}"), _first(below[of].help)) for of in sorted(below)]
        yield from table(("command", "what it does"), *rows)
    else:
        yield from _parameters(command)
    yield ""
    for of in sorted(below):
        yield from _command(f"{name} {of}", below[of])


def _link(name: str) -> str:
    return f"[`{name}`](#{name.replace(' ', '-')})"


def _first(text: str | None) -> str:
    return cell(inspect.cleandoc(text or "").split("\n\n")[0])


def _parameters(command: Any) -> list[str]:
    function = inspect.unwrap(command.callback)
    hints = typing.get_type_hints(function, include_extras=True)
    given = inspect.signature(function).parameters
    rows = []
    for parameter in command.params:
        kind, info = _declared(hints[parameter.name], given[parameter.name].default)
        names = " ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
        text = info.help or ""
        if parameter.multiple and "repeatable" not in text:
            text += " Repeatable."
        is_option = parameter.opts[0].startswith("-")
        named = names if is_option else f"`{parameter.name.upper()}`"
        rows.append((named, _kind(kind, info), _default(parameter, info), cell(text.strip())))
    return table(("parameter", "type", "default", "meaning"), *rows) if rows else []


def _declared(hint: Any, default: Any) -> tuple[Any, ParameterInfo]:
    """The type of a parameter, and what typer was told of it."""
    if isinstance(default, ParameterInfo):
        return hint, default
    kind, *told = typing.get_args(hint)
    return kind, next(of for of in told if isinstance(of, ParameterInfo))


def _kind(kind: Any, info: ParameterInfo) -> str:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, UnionType):
        return _kind(next(of for of in typing.get_args(kind) if of is not type(None)), info)
    if origin is list:
        return _kind(typing.get_args(kind)[0], info)
    if kind is bool:
        return "flag"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{of.value}`" for of in kind)
    bounds = [f"{sign} {bound:,}" for sign, bound in ((">=", info.min), ("<=", info.max)) if bound is not None]
    return ", ".join([_WORD_OF.get(kind, "text"), *bounds])


def _default(parameter: Any, info: ParameterInfo) -> str:
    if isinstance(info.show_default, str):
        return cell(info.show_default)
    default = parameter.default
    if parameter.required:
        return "required"
    if default is None or default is False or default in ("", [], ()):
        return ""
    if isinstance(default, bool):
        return f"`{parameter.opts[0]}`"
    return f"`{default.value if isinstance(default, Enum) else default}`"
