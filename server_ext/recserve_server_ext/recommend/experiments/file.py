"""The running experiments of a home: `HOME/experiments.json`, which its servers follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from recserve_client.contract import shown
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import change_json, reading
from recserve_server_ext.config.experiments import Experiment
from recserve_server_ext.config.server import Limits
from recserve_server_ext.recommend.experiments.assignment import Experiments

_MOST: Final = 100


class _Running(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    experiments: list[Experiment] = []


def read_experiments(path: Path) -> list[Experiment]:
    """The running experiments, none where there is no file; raises ConfigError for a file that cannot be read."""
    if not path.is_file():
        return []
    with reading(path, ConfigError, "correct it, or start the experiments again: recserve experiments start"):
        return msgspec.json.decode(path.read_bytes(), type=_Running).experiments


def parse_experiment(content: bytes, *, is_toml: bool) -> Experiment:
    """An experiment from TOML or JSON; raises ConfigError where it is none."""
    decode = msgspec.toml.decode if is_toml else msgspec.json.decode
    try:
        return decode(content, type=Experiment)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError(f"this is no experiment: {error}") from None


def start_experiment(path: Path, experiment: Experiment) -> None:
    """Start an experiment; running servers follow within a second or two.

    Raises:
        ConfigError: One of this name runs, it does not fit the others, its options are none, or the file cannot be
            read or written. Strategies of the settings of a server are known to that server alone, which logs an error
            and goes on as before where it cannot serve the experiments.
    """

    def add(running: list[Experiment]) -> list[Experiment]:
        if any(other.name == experiment.name for other in running):
            raise ConfigError(f"the experiment {experiment.name!r} runs; end it first")
        if len(running) >= _MOST:
            raise ConfigError(f"{len(running)} experiments run, the most that can; end some")
        Experiments([*running, experiment], Limits(), None)
        return [*running, experiment]

    _change(path, add)


def end_experiment(path: Path, name: str) -> Experiment:
    """End an experiment, which ran until now: its users are answered as all others; raises ConfigError without one."""
    ended: list[Experiment] = []

    def remove(running: list[Experiment]) -> list[Experiment]:
        ended.extend(one for one in running if one.name == name)
        if not ended:
            names = ", ".join(one.name for one in running) or "none"
            raise ConfigError(f"there is no experiment {shown(name)}; running: {names}")
        return [one for one in running if one.name != name]

    _change(path, remove)
    return ended[0]


def _change(path: Path, change: Callable[[list[Experiment]], list[Experiment]]) -> None:
    change_json(path, lambda: _Running(change(read_experiments(path))), ConfigError)
