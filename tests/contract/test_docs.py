"""The pages as a whole: links, sizes, places in the site, and code that fits the code."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import shlex
import tomllib
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import typer

from recserve_client import AsyncClient, Client, calls, item_calls, server_calls, user_calls
from recserve_client.cli.main import build_app
from recserve_export.catalogue.mapping import FieldMapping
from recserve_export.interactions.mapping import InteractionMapping
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.strategies.registry import Registry
from support.markdown import DOCS, ROOT, anchors, blocks, is_generated, links, pages

PAGES: Final = [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in pages()]
PICTURES: Final = (".png", ".svg")
SOURCES: Final = ("client", "server_ext", "export", "benchmarks", "tests", "model_repository")
#: A decision is at most a page; the list of them grows.
MOST_LINES: Final = {"README.md": 90, "index.md": 250, "decisions": 70}
#: Methods of the client -> what they are made of.
CALLS: Final[dict[str, Callable[..., Any]]] = {
    "recommend": calls.recommend,
    "similar": calls.similar,
    "recommend_for": user_calls.recommend_for,
    "recommend_text": calls.recommend_text,
    "embed": calls.embed,
    "ready": server_calls.ready,
    "server_info": server_calls.server_info,
    "strategies": server_calls.strategies,
    "items.upsert": item_calls.upsert,
    "items.delete": item_calls.delete,
    "items.get": item_calls.get,
    "items.list": item_calls.page,
    "interactions.record": user_calls.record,
    "users.history": user_calls.history,
    "users.export": user_calls.export,
    "users.erase": user_calls.erase,
    "users.verify_erasure": user_calls.verify_erasure,
    "recommend_many": Client.recommend_many,
}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(read(page)):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), f"{link}: there is no {target.relative_to(ROOT)}"
        if page.is_relative_to(DOCS):
            assert target.is_relative_to(DOCS), f"{link} leaves the site"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(read(target)), f"{link}: no such heading"


def test_every_page_and_picture_has_its_place() -> None:
    nav = re.findall(r"^ +- (?:\w+: )?(\S+\.md)$", read(ROOT / "mkdocs.yml"), re.MULTILINE)
    assert sorted(nav) == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))
    shown = {
        (page.parent / link).resolve() for page in pages() for link in links(read(page)) if link.endswith(PICTURES)
    }
    assert shown == {picture for picture in DOCS.rglob("*") if picture.suffix in PICTURES}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_short(page: Path) -> None:
    if is_generated(page) or page.name == "CHANGELOG.md":
        return
    bound = MOST_LINES.get(page.name, MOST_LINES.get(page.parent.name, 250))
    assert len(read(page).splitlines()) <= bound


def test_pages_that_the_code_names_are_there() -> None:
    named = {
        (found, path)
        for folder in SOURCES
        for path in (ROOT / folder).rglob("*.py")
        for found in re.findall(r"\bdocs/[\w/.-]+\.md", read(path))
    }
    assert [f"{path}: {found}" for found, path in named if not (ROOT / found).is_file()] == []


# --- commands ---


def programs() -> dict[str, Any]:
    """Every command of `recserve` by its words."""
    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        found[name] = command
        for below, of in getattr(command, "commands", {}).items():
            walk(f"{name} {below}".strip(), of)

    walk("", typer.main.get_command(build_app()))
    return found


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of each command line of `recserve` in blocks and in the text of a page."""
    code = "\n".join(blocks(text, "sh", "console", "text", ""))
    for line in code.replace("\\\n", " ").splitlines():
        if found := re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?recserve (.+)", line):
            yield shlex.split(found[1], comments=True)
    for found_in in re.findall(r"`(?:\.venv/bin/)?recserve ([^`]+)`", text):
        if "|" not in found_in and ", " not in found_in:
            yield shlex.split(found_in.replace("...", ""))


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_there(page: Path) -> None:
    known = programs()
    for words in command_lines(read(page)):
        path = ""
        while words and f"{path} {words[0]}".strip() in known:
            path = f"{path} {words.pop(0)}".strip()
        assert path, words
        command = known[path]
        assert not hasattr(command, "commands") or not [word for word in words if not word.startswith("-")], words
        options = {name for of in command.params for name in (*of.opts, *of.secondary_opts)} | {"--help", "-h"}
        given = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
        assert [word for word in given if word not in options] == [], f"recserve {path}"


# --- Python ---


@pytest.mark.parametrize("page", PAGES)
def test_python_fits_the_code(page: Path) -> None:
    for text in blocks(read(page), "python"):
        tree = ast.parse(text)
        names = imported(tree)
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            function = called(call.func, names)
            if function is not None:
                check_call(call, function)


def imported(tree: ast.Module) -> dict[str, Any]:
    """What a snippet imports of ours, by name; an import that fails is a fault of the page."""
    found: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("recserve"):
            module = importlib.import_module(node.module)
            found |= {of.asname or of.name: getattr(module, of.name) for of in node.names}
    return found


def called(function: ast.expr, names: dict[str, Any]) -> Callable[..., Any] | None:
    """What a call calls, where it is ours."""
    if isinstance(function, ast.Name):
        found: Callable[..., Any] | None = names.get(function.id)
        return found
    words = ast.unparse(function)
    if words.startswith("client.") and {"Client", "AsyncClient"} & set(names):
        name = words.removeprefix("client.")
        assert name in CALLS, f"the client has no {name}"
        return CALLS[name]
    return None


def check_call(call: ast.Call, function: Callable[..., Any]) -> None:
    if function in (Client, AsyncClient) or not callable(function):
        return
    parameters = inspect.signature(function).parameters
    known = set(parameters)
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            hint = typing.get_type_hints(function)[parameter.name]
            unpacked = typing.get_args(hint)
            if not unpacked:
                return
            known |= set(typing.get_type_hints(unpacked[0]))
    assert [of.arg for of in call.keywords if of.arg not in known] == [], ast.unparse(call)
    places = [of for of in parameters.values() if of.kind in (of.POSITIONAL_ONLY, of.POSITIONAL_OR_KEYWORD)]
    taken = len(places) - (1 if places and places[0].name == "self" else 0)
    assert len(call.args) <= taken or any(of.kind is of.VAR_POSITIONAL for of in parameters.values()), ast.unparse(call)


# --- TOML ---


@pytest.mark.parametrize("page", PAGES)
def test_toml_is_read(page: Path) -> None:
    for text in blocks(read(page), "toml"):
        content = tomllib.loads(text)
        if "project" in content:
            continue
        faults = []
        for kind in (ServeSettings, FieldMapping, InteractionMapping, HistoryRules, Experiment):
            try:
                made = msgspec.convert(content, kind)
            except msgspec.ValidationError as error:
                faults.append(str(error))
                continue
            if isinstance(made, ServeSettings):
                check_strategies(made)
            break
        else:
            pytest.fail(f"{text}: {faults}")


def check_strategies(settings: ServeSettings) -> None:
    """Check the options of the strategies that this installation has."""
    known = Registry().names

    def is_known(name: str, given: dict[str, Any]) -> bool:
        return {given.get("kind", name), *given.get("weights", {})} <= set(known)

    Registry({name: given for name, given in settings.strategies.items() if is_known(name, given)})
