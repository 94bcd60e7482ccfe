"""The strategies that an evaluation of the home's own log chose, by the activity of a user: `HOME/evaluation.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import reading

#: A user with at most so many behaviours has few of them.
MOST_FEW: Final = 5
_AUTO: Final = "auto"
Activity = Literal["cold", "few", "many"]


class Choice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A strategy with options.

    Attributes:
        strategy: Name in the registry.
        options: Options on top of the server's.
    """

    strategy: str
    options: dict[str, Any] = {}


class Chosen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The best strategy for each activity of a user; `None` where the evaluation could not tell.

    Attributes:
        cold: Users without a behaviour.
        few: Users with at most `MOST_FEW` behaviours.
        many: Users with more behaviours.
    """

    cold: Choice | None = None
    few: Choice | None = None
    many: Choice | None = None


class EvaluationFile(msgspec.Struct, frozen=True, kw_only=True):
    """Content of `evaluation.json`.

    Attributes:
        data: What was evaluated: counts of users, items and interactions, checksums.
        protocols: Figures by protocol and strategy.
        seconds: Duration by strategy.
        chosen: What `auto` serves.
    """

    data: dict[str, Any] = {}
    protocols: dict[str, dict[str, Any]] = {}
    seconds: dict[str, float] = {}
    chosen: Chosen = Chosen()


class _Evaluated(msgspec.Struct, frozen=True):
    last_number: int = 0


class _OnlyData(msgspec.Struct, frozen=True):
    data: _Evaluated = _Evaluated()


class _OnlyChosen(msgspec.Struct, frozen=True):
    chosen: Chosen = Chosen()


def read_evaluated(path: Path) -> int | None:
    """Number of the newest interaction that was evaluated; `None` without a file. Errors are those of `read_chosen`."""
    if not path.is_file():
        return None
    with reading(path, ConfigError, "evaluate again: recserve evaluate"):
        return msgspec.json.decode(path.read_bytes(), type=_OnlyData).data.last_number


def chosen_options(path: Path) -> dict[str, Any]:
    """What was chosen, as options of the strategy `auto`; raises ConfigError as `read_chosen`."""
    found = msgspec.structs.asdict(read_chosen(path))
    return {activity: msgspec.to_builtins(choice) for activity, choice in found.items() if choice is not None}


def with_chosen(strategies: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The settings of strategies with what was chosen as options of `auto`; options of the settings win."""
    return {**strategies, _AUTO: {**chosen, **strategies.get(_AUTO, {})}}


def read_chosen(path: Path) -> Chosen:
    """What was chosen; nothing where there is no file. Raises ConfigError for a file that cannot be read."""
    if not path.is_file():
        return Chosen()
    with reading(path, ConfigError, "evaluate again: recserve evaluate"):
        return msgspec.json.decode(path.read_bytes(), type=_OnlyChosen).chosen
