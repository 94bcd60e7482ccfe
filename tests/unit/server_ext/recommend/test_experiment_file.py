"""The running experiments of a home: started, ended, refused; and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recserve_server_ext.cli.experiments import app
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.config.experiments import Experiment, Variant, version_of
from recserve_server_ext.recommend.experiments.file import (
    end_experiment,
    parse_experiment,
    read_experiments,
    start_experiment,
)

MIX = Experiment("mix", [Variant("control"), Variant("session", {"mix": 0.9})], layer="a", share=0.6)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "experiments.json"


def named(name: str, options: dict[str, object], layer: str = "", share: float = 1.0) -> Experiment:
    return Experiment(name, [Variant("control"), Variant("other", dict(options))], layer, share)


def test_what_is_started_runs_until_it_is_ended(path: Path) -> None:
    assert read_experiments(path) == []
    start_experiment(path, MIX)
    long = named("long", {"k": 20})
    start_experiment(path, long)
    assert read_experiments(path) == [MIX, long]
    assert end_experiment(path, "mix") == MIX
    assert read_experiments(path) == [long]


@pytest.mark.parametrize(
    ("experiment", "why"),
    [
        (MIX, "'mix' runs; end it first"),
        (named("k", {"k": 5}, "a", 0.5), "add up to 1.1"),
        (named("other", {"mix": 0.1}), "both set 'mix'"),
        (named("k", {"kk": 5}), "kk"),
        (named("k", {"user_id": "bob"}), "cannot be set"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(path: Path, experiment: Experiment, why: str) -> None:
    start_experiment(path, MIX)
    with pytest.raises(ConfigError, match=why):
        start_experiment(path, experiment)
    assert read_experiments(path) == [MIX]


def test_a_strategy_is_left_to_the_server(path: Path) -> None:
    start_experiment(path, named("own", {"strategy": "of-the-settings"}))
    assert [one.name for one in read_experiments(path)] == ["own"]


def test_an_experiment_that_does_not_run_cannot_be_ended(path: Path) -> None:
    start_experiment(path, MIX)
    with pytest.raises(ConfigError, match="no experiment 'other'; running: mix"):
        end_experiment(path, "other")


def test_a_damaged_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ConfigError, match="recserve experiments start"):
        read_experiments(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        start_experiment(path, MIX)


def test_an_experiment_is_read_from_toml() -> None:
    text = b"""
    name = "mix"
    layer = "ranking"
    share = 0.5
    variants = [{ name = "control" }, { name = "session", weight = 2, options = { mix = 0.9 } }]
    """
    found = parse_experiment(text, is_toml=True)
    assert found == Experiment("mix", [Variant("control"), Variant("session", {"mix": 0.9}, 2)], "ranking", 0.5)


NONE = [b'name = "Mix"', b'name = "m"\nvariants = [{ name = "a" }]', b'name = "m"\nshare = 0\nvariants = []']


@pytest.mark.parametrize(
    ("content", "is_toml"),
    [(b"{", False), (b'name = "a"', True), (b"\xff", True), *((content, True) for content in NONE)],
)
def test_what_is_no_experiment(content: bytes, is_toml: bool) -> None:
    with pytest.raises(ConfigError, match="this is no experiment"):
        parse_experiment(content, is_toml=is_toml)


def test_the_command(tmp_path: Path) -> None:
    home = tmp_path / "home"
    toml, as_json = tmp_path / "a.toml", tmp_path / "b.json"
    toml.write_text('name = "mix"\nvariants = [{ name = "control" }, { name = "session", options = { mix = 0.9 } }]\n')
    as_json.write_text(json.dumps({"name": "long", "variants": [{"name": "a"}, {"name": "b", "options": {"k": 20}}]}))

    def run(*words: str) -> tuple[int, str]:
        found = CliRunner().invoke(app, [*words, "--home", str(home)])
        return found.exit_code, found.output

    assert "no experiment runs" in run("list")[1]
    assert run("start", str(toml))[0] == 0
    assert run("start", str(as_json))[0] == 0
    assert run("start", str(toml)) == (1, "error: the experiment 'mix' runs; end it first\n")
    assert run("start", str(tmp_path / "none.toml"))[0] == 2
    listed = run("list")[1]
    mix = read_experiments(home / "experiments.json")[0]
    assert version_of(mix) in listed
    assert "control (1), session (1)" in listed
    assert run("end", "mix") == (0, "experiment mix is ended\n")
    assert run("end", "mix")[0] == 1
    assert [one["name"] for one in json.loads(run("list", "--json")[1])] == ["long"]
