"""The running experiments of a home, as `recserve experiments` lists, starts and ends them."""

from __future__ import annotations

from pathlib import Path

from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.recommend.experiments import file as experiment_file


def running_experiments(home: Path) -> list[Experiment]:
    """The running experiments; raises ConfigError where the file cannot be read."""
    return experiment_file.read_experiments(Workspace(home).experiments)


def parse_experiment(text: str) -> Experiment:
    """An experiment from TOML; raises ConfigError where it is none."""
    return experiment_file.parse_experiment(text.encode(), is_toml=True)


def start_experiment(home: Path, experiment: Experiment) -> None:
    """Start an experiment; errors as of the command."""
    experiment_file.start_experiment(Workspace(home).experiments, experiment)


def end_experiment(home: Path, name: str) -> None:
    """End an experiment; errors as of the command."""
    experiment_file.end_experiment(Workspace(home).experiments, name)
