"""`auto`: asks what was chosen for the activity of a user, and falls back where that cannot answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recserve_client.contract import RequestError
from recserve_export.training.memory import in_memory
from recserve_export.training.registry import train
from recserve_server_ext.catalogue.view import View, view_over
from recserve_server_ext.common.errors import ConfigError
from recserve_server_ext.common.files import write_json
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.strategies.base import ConfiguredStrategy, Profile, Query
from recserve_server_ext.strategies.parts.chosen import Choice, Chosen, EvaluationFile, chosen_options
from recserve_server_ext.strategies.registry import Registry
from support.data import data_over, spec_of
from support.training_logs import log_of

ITEMS = 40


@pytest.fixture(scope="module")
def views() -> dict[str, View]:
    """The same catalogue with a training, and without."""
    log = log_of(60, ITEMS, 700)
    text = np.random.default_rng(5).normal(size=(ITEMS, 8)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    learned = {name: train(name, log, None, {}) for name in ("ease", "transitions")}
    engine = ExactEngine(text)
    return {
        "trained": view_over(text, engine, log.items, None, *in_memory(learned, text, log.items)),
        "untrained": view_over(text, engine, log.items),
    }


def query_of(view: View, rows: list[int], options: Any) -> Query:
    n = len(rows)
    profile = Profile(
        np.ones(n), np.array(rows, np.int64), {}, {}, [], np.zeros(n), np.arange(n) * 1.0, np.ones(n), count=n
    )
    return Query(profile, data_over(view), spec_of(5), options)


def auto(**options: Any) -> ConfiguredStrategy:
    return Registry({"auto": options}).choose("auto", {})


def names_of(view: View, configured: ConfiguredStrategy, histories: list[list[int]]) -> list[str]:
    """The strategy selected for each user."""
    selected = configured.strategy.selected([query_of(view, rows, configured.options) for rows in histories])
    assert not [found for found in selected if isinstance(found, RequestError)]
    return [found.strategy.name for found in selected if isinstance(found, ConfiguredStrategy)]


def test_users_get_what_was_chosen_for_their_activity(views: dict[str, View]) -> None:
    configured = auto(few={"strategy": "transitions"}, many={"strategy": "ease", "options": {"half_life": 2.0}})
    found = names_of(views["trained"], configured, [[], [1, 2], [1, 2, 3, 4, 5, 6], [1]])
    assert found == ["popular", "transitions", "ease", "transitions"]


def test_without_a_choice_it_is_text(views: dict[str, View]) -> None:
    assert names_of(views["trained"], auto(), [[], [1], list(range(9))]) == ["popular", "text", "text"]


def test_what_is_not_trained_is_passed_over(views: dict[str, View]) -> None:
    configured = auto(few={"strategy": "transitions"}, many={"strategy": "ease"})
    assert configured.strategy.lacking(data_over(views["untrained"]), configured.options) is None
    assert names_of(views["untrained"], configured, [[1], list(range(9))]) == ["text", "text"]


def test_a_profile_that_the_chosen_strategy_cannot_use_goes_to_text(views: dict[str, View]) -> None:
    configured = auto(few={"strategy": "ease"})
    assert names_of(views["trained"], configured, [[ITEMS - 1], [0]]) == ["text", "ease"]


def test_a_profile_that_nobody_can_use_is_refused_as_text_does(views: dict[str, View]) -> None:
    configured = auto(few={"strategy": "ease"})
    query = query_of(views["trained"], [1, 1], configured.options)
    query.profile.weights = np.array([1.0, -1.0])
    query.profile.session_weights = np.zeros(2)
    query.profile.undecayed_weights = np.zeros(2)
    (reason,) = configured.strategy.selected([query])
    assert isinstance(reason, RequestError)
    assert "no direction is left" in reason.text


def test_the_options_are_those_of_the_choice(views: dict[str, View]) -> None:
    configured = auto(few={"strategy": "ease", "options": {"half_life": 2.0}})
    (selected,) = configured.strategy.selected([query_of(views["trained"], [1, 2], configured.options)])
    assert isinstance(selected, ConfiguredStrategy)
    assert selected.options.half_life == 2.0
    assert configured.strategy.trainings(configured.options) == {"ease"}


def test_a_wrong_choice_is_refused() -> None:
    with pytest.raises(ConfigError, match="nothing_such"):
        auto(few={"strategy": "nothing_such"})
    with pytest.raises(ConfigError, match="a part of itself"):
        auto(few={"strategy": "auto"})
    with pytest.raises(ConfigError, match="'auto' selects among others"):
        Registry({"mine": {"kind": "fusion", "weights": {"auto": 1.0, "text": 1.0}}})


def test_what_an_evaluation_wrote_becomes_options(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    assert chosen_options(path) == {}
    write_json(path, EvaluationFile(chosen=Chosen(many=Choice("ease", {"half_life": 8.0}))))
    assert chosen_options(path) == {"many": {"strategy": "ease", "options": {"half_life": 8.0}}}
    auto(**chosen_options(path))
