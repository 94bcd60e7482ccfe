"""The training `generate`: what it learns, that it repeats itself, and that ONNX gives what torch gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recserve_export.errors import TrainingError
from recserve_export.training.base import Learned, TrainingLog, Work
from recserve_export.training.generate.decoder import DecoderNetwork
from recserve_export.training.generate.export import decoder_to_onnx
from recserve_export.training.generate.fit import codebooks_of, leaves_of
from recserve_export.training.generate.trainer import GenerateTrainer
from recserve_export.training.memory import in_memory
from recserve_export.training.registry import settings_of, train
from recserve_server_ext.catalogue.view import view_over
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.engines.exact import ExactEngine
from recserve_server_ext.networks.decoder import DecoderRunner, quantised
from recserve_server_ext.networks.network import Behaviours
from recserve_server_ext.networks.runner import InProcess
from recserve_server_ext.strategies.parts.id_tree import Search, Wanted, ids_of_space, tree_of
from support.training_logs import log_from, log_of

SMALL = {"dim": 16, "length": 8, "layers": 1, "rate": 0.01, "epochs": 30, "held_out": 0.0, "codes": 4, "levels": 2}
ITEMS, USERS, STEPS = 20, 60, 12


def in_a_circle() -> TrainingLog:
    """Users who go from item to item in one order."""
    user = np.repeat(np.arange(USERS), STEPS)
    item = (user * 7 + np.tile(np.arange(STEPS), USERS)) % ITEMS
    return replace(log_from(user, item, USERS, ITEMS), time_us=np.tile(np.arange(STEPS), USERS) * 10_000_000)


def inputs_of(learned: Learned) -> Vectors:
    assert learned.inputs is not None
    return learned.inputs


def following(learned: Learned, histories: list[list[int]], beam: int = 4) -> list[int]:
    """The item that is generated first after each history."""
    assert learned.network is not None
    assert learned.network.decoder is not None
    assert learned.inputs is not None
    users = InProcess(learned.network)(
        [Behaviours(learned.inputs[history], np.r_[0.0, np.full(len(history) - 1, 10.0)]) for history in histories]
    )
    text, ids = np.zeros((ITEMS, 1), np.float32), [f"i{n}" for n in range(ITEMS)]
    view = view_over(text, ExactEngine(text), ids, None, *in_memory({"generate": learned}, text, ids))
    space = view.space("generate")
    tree = tree_of(space, ids_of_space(space.space))
    search = Search(tree, space, DecoderRunner(learned.network.decoder), users)
    return [int(rows[0]) for rows, _ in search.best([Wanted(beam, 1, None, np.empty(0, np.int64))] * len(users))]


def right(learned: Learned) -> float:
    """Share of the items of the circle after which the right one is generated."""
    found = following(learned, [[(start + n) % ITEMS for n in range(5)] for start in range(ITEMS)])
    return float(np.mean(np.array(found) == (np.arange(ITEMS) + 5) % ITEMS))


# With two codes of one level ten items share each id: the last level alone tells them apart.
@pytest.mark.parametrize("settings", [{}, {"levels": 1, "codes": 2}, {"levels": 3}])
def test_it_generates_what_follows(settings: dict[str, Any]) -> None:
    assert right(train("generate", in_a_circle(), None, {**SMALL, **settings})) >= 0.9


def test_the_same_log_gives_the_same_files() -> None:
    log, settings = log_of(40, 30, 800), {**SMALL, "epochs": 3, "held_out": 0.1}
    one, again = (train("generate", log, None, settings) for _ in range(2))
    other = train("generate", log, None, {**settings, "seed": 1})
    np.testing.assert_array_equal(inputs_of(one), inputs_of(again))
    assert one.network is not None
    assert again.network is not None
    assert other.network is not None
    assert one.network.manifest == again.network.manifest
    assert one.network.manifest.fingerprint != other.network.manifest.fingerprint
    assert one.found == {"epochs": one.figures["epochs"], "held_out": 0.0}


def test_a_longer_log_goes_on_from_an_earlier_part() -> None:
    """Known items keep their ids, and in a few passes it knows what follows items that the earlier part lacks."""
    whole = in_a_circle()
    kept = whole.item < ITEMS - 3
    early = replace(whole, user=whole.user[kept], item=whole.item[kept], time_us=whole.time_us[kept])
    first = GenerateTrainer().train(early, None, settings_of("generate", SMALL))
    settings = settings_of("generate", {**SMALL, "more_epochs": 3})
    learned = GenerateTrainer().work(whole, None, settings, Work(before=first.state))
    assert learned.items.tolist() == list(range(ITEMS))
    assert first.vectors is not None
    assert learned.vectors is not None
    np.testing.assert_array_equal(learned.vectors[: ITEMS - 3], first.vectors)
    assert right(learned) >= 0.8
    assert right(train("generate", whole, None, {**SMALL, "epochs": 3})) < 0.8


def test_texts_have_a_map_to_what_is_quantised_and_to_behaviours() -> None:
    text = np.random.default_rng(0).standard_normal((ITEMS, 5)).astype(np.float32)
    learned = train("generate", in_a_circle(), text, {**SMALL, "epochs": 2})
    assert learned.text_map is not None
    assert learned.text_map.shape == (6, 32)
    assert train("generate", in_a_circle(), None, {**SMALL, "epochs": 2}).text_map is None


def test_codebooks_leave_less_at_each_level() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 6)).astype(np.float32)
    codebooks = codebooks_of(vectors, 3, 16, 0)
    codes = quantised(vectors, codebooks)
    left = [float((vectors**2).sum())]
    for level in range(3):
        rebuilt = sum(codebooks[of][codes[:, of]] for of in range(level + 1))
        left.append(float(((vectors - rebuilt) ** 2).sum()))
    assert all(after < 0.9 * before for before, after in pairwise(left))
    assert codebooks_of(vectors[:3], 2, 16, 0).shape == (2, 3, 6)


def test_leaves_name_the_items_with_the_same_codes() -> None:
    codes = np.array([[0, 1], [2, 0], [0, 1], [1, 1], [0, 1]])
    found = leaves_of(codes, np.array([1, 5, 9, 2, 3]))
    assert [sorted(of[of >= 0].tolist()) for of in found] == [[0, 2, 4], [1], [0, 2, 4], [3], [0, 2, 4]]
    # Of many the most frequent are kept, and the item itself.
    crowded = leaves_of(np.zeros((200, 2), np.int64), np.arange(200))
    assert all(item in of for item, of in enumerate(crowded.tolist()))
    assert set(range(140, 200)) <= set(crowded[0].tolist())


def test_the_number_of_levels_follows_the_catalogue() -> None:
    settings = settings_of("generate", {})
    assert [settings.levels_of(items) for items in (1, 512, 513, 32_768, 32_769)] == [1, 1, 2, 2, 3]
    assert settings_of("generate", {"levels": 4}).levels_of(10) == 4


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("levels", [1, 3])
def test_onnx_gives_what_torch_gives(layers: int, levels: int) -> None:
    torch.manual_seed(0)
    network = DecoderNetwork(torch.randn(levels, 5, 16), layers, 2, 0.2)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    assert decoder_to_onnx(network)  # it compares every number of steps


def test_a_file_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_export.training.generate.export.TOLERANCE", -1.0)
    with pytest.raises(TrainingError, match="the exported decoder differs from the trained one by"):
        decoder_to_onnx(DecoderNetwork(torch.randn(2, 4, 8), 1, 2, 0.0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"heads": 3}, "dim=16 is not a multiple of heads=3"),
        ({"precision": "int8"}, "precision"),
        ({"levels": 7}, "levels"),
        ({"objective": "masked"}, "objective"),
        ({"codes": 1}, "codes"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError, match=said):
        train("generate", in_a_circle(), None, {**SMALL, **settings})


class Ended(Exception):  # noqa: N818  # stands for kill -9
    """Ends a training between two epochs."""


def test_a_training_that_was_ended_goes_on(tmp_path: Path) -> None:
    log = log_of(40, 30, 800)
    settings = settings_of("generate", {**SMALL, "epochs": 4, "held_out": 0.2, "patience": 9})
    whole = GenerateTrainer().train(log, None, settings)

    def end(_: int) -> None:
        raise Ended

    learned = None
    while learned is None:
        with suppress(Ended):
            learned = GenerateTrainer().work(log, None, settings, Work(end, tmp_path))
    assert learned.network is not None
    assert whole.network is not None
    assert learned.network.manifest == whole.network.manifest
    np.testing.assert_array_equal(inputs_of(learned), inputs_of(whole))
    assert list(tmp_path.iterdir()) == []
