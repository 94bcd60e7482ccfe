"""Recipes: mapping files for public data sets, one for each, that come with the package."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from recserve_client.contract import nearest
from recserve_export.errors import MappingError

_FOLDER: Final = Path(__file__).with_name("recipes")
Kind = Literal["catalogue", "interactions"]
Mapping = TypeVar("Mapping")


def recipe_names() -> list[str]:
    """Names of the recipes."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def read_recipe(name: str, kind: Kind, type_: type[Mapping]) -> list[Mapping]:
    """The mappings of a recipe: one for each form in which the data set was published.

    Args:
        name: Name of a recipe, or a TOML file of the same form.
        kind: Which of its tables.
        type_: Type of the mappings.

    Raises:
        MappingError: There is no such recipe, it has no such table, or does not fit the schema.
    """
    path = Path(name) if name.endswith(".toml") else _FOLDER / f"{name}.toml"
    if not path.is_file():
        known = recipe_names()
        raise MappingError(f"no recipe {name!r}{nearest(name, known)}; recipes: {', '.join(known)}")
    try:
        found = msgspec.toml.decode(path.read_text(encoding="utf-8-sig"), type=dict[str, Any]).get(kind)
        if not found:
            raise MappingError(f"the recipe {name} has nothing for {kind}")
        return msgspec.convert(found if isinstance(found, list) else [found], list[type_])  # type: ignore[valid-type]
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MappingError(f"the recipe {path} cannot be read: {error}") from error


def read_toml(path: Path, type_: type[Mapping]) -> Mapping:
    """A mapping from a TOML file.

    Raises:
        MappingError: The file cannot be read, is not TOML, or does not fit the schema.
    """
    try:
        # Editors on Windows put a byte order mark before it.
        return msgspec.toml.decode(path.read_text(encoding="utf-8-sig"), type=type_)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MappingError(f"the mapping {path} cannot be read: {error}") from error


def fitting(mappings: Iterable[Mapping], needed: Iterable[Iterable[str]], known: Iterable[str]) -> Mapping:
    """The first mapping whose needed columns are all known, else the one that lacks fewest."""
    names = set(known)
    pairs = list(zip(mappings, needed, strict=True))
    return min(pairs, key=lambda pair: len(set(pair[1]) - names))[0]
