"""docs/how-to/add-a-strategy.md, word for word: its package is installed, served and asked over gRPC."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recserve_client import Client, ClientOptions, item
from recserve_client.contract.slate_options import Pin, SlateOptions
from recserve_client.errors import InvalidRequest
from support.served import served
from support.tiny_home import copy_home

pytestmark = pytest.mark.triton
PAGE = Path(__file__).parents[2] / "docs/how-to/add-a-strategy.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package of the page, installed beside recserve for the processes of this module."""
    package, place = tmp_path_factory.mktemp("my-strategies"), tmp_path_factory.mktemp("site")
    code, last_item = blocks("python")
    project, _ = blocks("toml")
    (package / "my_strategies.py").write_text(code + last_item)
    (package / "pyproject.toml").write_text(f'{project}last_item = "my_strategies:LastItem"\n')
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(place), str(package)], check=True, timeout=120)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(place), *([before] if before else [])])
    yield place
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def client(installed: Path, tiny_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    _, settings = blocks("toml")
    home = copy_home(tiny_home, tmp_path_factory.mktemp("own-strategy") / "home")
    with (
        served(home, settings=settings) as live,
        Client(live.grpc, ClientOptions(deadline_s=30, tries=10)) as client,
    ):
        yield client


def test_the_code_is_as_short_as_promised() -> None:
    code = [line for line in blocks("python")[0].splitlines() if line.strip()]
    assert len(code) <= 30


def test_it_is_served(client: Client, films: list[str]) -> None:
    first = client.recommend_for("somebody", strategy="random", options={"seed": 7}, k=10)
    again = client.recommend([item(films[0])], strategy="random", options={"seed": 7}, exclude_history=False, k=10)
    other = client.recommend_for("somebody", strategy="random", k=10)
    ids = [found.id for found in first.items]
    assert first.strategy == "random"
    assert ids == [found.id for found in again.items]
    assert ids != [found.id for found in other.items]
    assert [found.score for found in first.items] == sorted((found.score for found in first.items), reverse=True)
    assert set(ids) <= set(films)


def test_it_has_filters_rules_and_bounds(client: Client, films: list[str]) -> None:
    pinned = client.recommend_for("somebody", strategy="random", k=4, slate=SlateOptions(pins=[Pin(films[3], 2)]))
    assert pinned.items[1].id == films[3]
    with pytest.raises(InvalidRequest, match="seed"):
        client.recommend_for("somebody", strategy="random", options={"seed": 5000})
    with pytest.raises(InvalidRequest, match="takes no option 'sed'; a request may set: seed"):
        client.recommend_for("somebody", strategy="random", options={"sed": 5})
    with pytest.raises(InvalidRequest, match=r"the server has: .*last_item.*random"):
        client.recommend_for("somebody", strategy="rendom")


def test_it_is_a_part_of_a_fusion(client: Client, films: list[str]) -> None:
    found = client.recommend([item(films[0])], strategy="mostly_text", k=5)
    assert all(set(of.parts or {}) == {"text", "random"} for of in found.items)


def test_a_vector_is_enough(client: Client, films: list[str]) -> None:
    found = client.recommend([item(films[5]), item(films[0], -3)], strategy="last_item", k=5)
    expected = client.recommend([item(films[5])], exclude=[films[0]], k=5)
    assert [of.id for of in found.items] == [of.id for of in expected.items]
    for of in found.items:
        assert isinstance(of.contributions, list)
        assert of.contributions[0] == pytest.approx(of.score, abs=1e-6)
