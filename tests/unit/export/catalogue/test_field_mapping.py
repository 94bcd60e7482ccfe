"""How the rows of a source become items: mappings from files and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from recserve_export.catalogue.mapping import FieldMapping, mapping_from_options, validated
from recserve_export.errors import MappingError
from recserve_export.tabular.recipes import read_toml


def test_a_mapping_file_says_the_same_as_options(tmp_path: Path) -> None:
    path = tmp_path / "books.toml"
    path.write_text(
        'id = "sku"\navailable = "used"\n[texts]\ntitle = {column = "name", weight = 2.0}\nblurb = {}\n'
        '[attributes]\nyear = {column = "y", type = "int", separator = "|"}\ntags = {type = "list", separator = "|"}\n'
    )
    mapping = validated(read_toml(path, FieldMapping))
    assert mapping == mapping_from_options(
        id_field="sku",
        texts=["title=2", "blurb"],
        attributes=["year:int", "tags:list"],
        columns=["title=name", "year=y"],
        separator="|",
        available="used",
    )
    assert mapping.columns == ("sku", "name", "blurb", "y", "tags", "used")
    assert mapping.field_weights == {"title": 2.0, "blurb": 1.0}


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("id = [", "cannot be read"),
        ('id = "x"', "missing required field `texts`"),
        ("texts = {}", "no text field"),
        ("texts = {title = {wait = 2}}", "unknown field `wait`"),
        ("texts = {title = {weight = -1}}", "weight of text field 'title' is -1"),
        ("texts = {title = {weight = inf}}", "weight of text field 'title' is inf"),
        ('texts = {t = {}}\nattributes = {year = {type = "integer"}}', r"\$\.attributes\[...\]\.type"),
        ('texts = {t = {}}\nattributes = {tags = {separator = ""}}', "separator of attribute 'tags' is empty"),
        ('id = ""\ntexts = {t = {}}', "empty"),
    ],
)
def test_wrong_mapping_files(toml: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "m.toml").write_text(toml)
    with pytest.raises(MappingError, match=message):
        validated(read_toml(tmp_path / "m.toml", FieldMapping))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no text field"),
        ({"texts": ["title=heavy"]}, "'heavy' is no number"),
        ({"texts": ["title", "title=2"]}, "named twice"),
        ({"texts": ["t"], "attributes": ["year:intt"]}, "no type 'intt'; did you mean 'int'"),
        ({"texts": ["title"], "columns": ["titel=name"]}, "'titel'.*; did you mean 'title'"),
        ({"texts": ["title"], "columns": ["title"]}, "write NAME=COLUMN"),
    ],
)
def test_wrong_mapping_options(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(MappingError, match=message):
        mapping_from_options(**options)  # type: ignore[arg-type]  # a table of keyword arguments


@pytest.mark.parametrize(
    "change",
    [{"texts": ["title=2"]}, {"attributes": ["year"]}, {"separator": "|"}, {"columns": ["title=t"]}, {"id_field": "x"}],
)
def test_the_hash_of_a_mapping_tells_every_change(change: dict[str, Any]) -> None:
    base: dict[str, Any] = {"texts": ["title"], "attributes": ["year:int"]}
    assert mapping_from_options(**base).sha256 == mapping_from_options(**base).sha256
    assert mapping_from_options(**base).sha256 != mapping_from_options(**(base | change)).sha256
