"""The training `sequence`: what it learns, that it repeats itself, and that ONNX gives what torch gives."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recserve_export.errors import TrainingError
from recserve_export.training.base import Learned, TrainingLog, Work
from recserve_export.training.registry import settings_of, train
from recserve_export.training.sequence.export import difference, to_onnx
from recserve_export.training.sequence.network import Network
from recserve_export.training.sequence.start import start_vectors
from recserve_export.training.sequence.trainer import SequenceTrainer
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import SpaceError
from recserve_server_ext.networks.canonical import check_canonical, made_histories
from recserve_server_ext.networks.network import Behaviours
from recserve_server_ext.networks.runner import InProcess
from support.training_logs import log_from, log_of

SMALL = {"dim": 16, "length": 8, "layers": 1, "rate": 0.01, "epochs": 15, "held_out": 0.0}
ITEMS, USERS, STEPS = 20, 60, 12


def in_a_circle() -> TrainingLog:
    """Users who go from item to item in one order."""
    user = np.repeat(np.arange(USERS), STEPS)
    item = (user * 7 + np.tile(np.arange(STEPS), USERS)) % ITEMS
    return replace(log_from(user, item, USERS, ITEMS), time_us=np.tile(np.arange(STEPS), USERS) * 10_000_000)


def vectors_of(learned: Learned) -> Vectors:
    assert learned.vectors is not None
    return learned.vectors


def following(learned: Learned, history: list[int]) -> int:
    assert learned.network is not None
    assert learned.vectors is not None
    (user,) = InProcess(learned.network)([Behaviours(learned.vectors[history], np.full(len(history), 10.0))])
    return int(np.argmax(learned.vectors @ user))


@pytest.mark.parametrize("settings", [{}, {"objective": "masked", "epochs": 90}, {"exact_items": 0, "negatives": 64}])
def test_it_learns_what_follows(settings: dict[str, Any]) -> None:
    learned = train("sequence", in_a_circle(), None, {**SMALL, **settings})
    found = [following(learned, [(start + n) % ITEMS for n in range(5)]) for start in range(ITEMS)]
    right = [(start + 5) % ITEMS for start in range(ITEMS)]
    assert np.mean(np.array(found) == right) >= 0.9


def test_the_same_log_gives_the_same_file() -> None:
    log = log_of(40, 30, 800)
    one, again = (train("sequence", log, None, {**SMALL, "epochs": 3, "held_out": 0.1}) for _ in range(2))
    other = train("sequence", log, None, {**SMALL, "epochs": 3, "held_out": 0.1, "seed": 1})
    np.testing.assert_array_equal(vectors_of(one), vectors_of(again))
    assert one.network == again.network
    assert one.network != other.network


def test_a_longer_log_goes_on_from_an_earlier_part() -> None:
    """In a few passes it knows what follows items that the earlier part does not have."""
    whole = in_a_circle()
    kept = whole.item < ITEMS - 3
    early = replace(whole, user=whole.user[kept], item=whole.item[kept], time_us=whole.time_us[kept])
    first = SequenceTrainer().train(early, None, settings_of("sequence", SMALL))
    assert first.items.tolist() == list(range(ITEMS - 3))
    settings = settings_of("sequence", {**SMALL, "more_epochs": 4})
    learned, again = (SequenceTrainer().work(whole, None, settings, Work(before=first.state)) for _ in range(2))
    assert learned.items.tolist() == list(range(ITEMS))
    assert learned.figures["epochs"] == 4
    assert learned.network == again.network
    found = [following(learned, [(start + n) % ITEMS for n in range(5)]) for start in range(ITEMS)]
    assert np.mean(np.array(found) == [(start + 5) % ITEMS for start in range(ITEMS)]) >= 0.8
    anew = train("sequence", whole, None, {**SMALL, "epochs": 4})
    wrong = [following(anew, [(start + n) % ITEMS for n in range(5)]) for start in range(ITEMS)]
    assert np.mean(np.array(wrong) == [(start + 5) % ITEMS for start in range(ITEMS)]) < 0.8


def test_what_was_searched_is_told() -> None:
    learned = train("sequence", log_of(40, 30, 800), None, {**SMALL, "epochs": 3, "held_out": 0.1})
    assert learned.found == {"epochs": learned.figures["epochs"], "held_out": 0.0}


def test_the_newest_part_finds_the_number_of_epochs() -> None:
    learned = train("sequence", log_of(40, 30, 800), None, {**SMALL, "epochs": 30, "held_out": 0.2, "patience": 1})
    losses = learned.figures["held_out_losses"]
    # Nothing can be learned from chance: the loss soon rises.
    assert len(losses) < 30
    assert learned.figures["epochs"] == int(np.argmin(losses)) + 1


def test_texts_have_a_map_into_the_space() -> None:
    log = in_a_circle()
    text = np.random.default_rng(0).standard_normal((ITEMS, 5)).astype(np.float32)
    learned = train("sequence", log, text, SMALL)
    assert learned.text_map is not None
    assert learned.text_map.shape == (6, 16)
    assert train("sequence", log, None, SMALL).text_map is None


def test_first_vectors_of_near_items_are_near() -> None:
    vectors = start_vectors(in_a_circle(), np.arange(ITEMS), 8, 0)
    near = np.mean(np.sum(vectors * np.roll(vectors, 1, axis=0), axis=1))
    far = np.mean(np.sum(vectors * np.roll(vectors, 10, axis=0), axis=1))
    assert near > far + 0.3


def test_heads_must_divide_the_vector() -> None:
    with pytest.raises(TrainingError, match="dim=16 is not a multiple of heads=3"):
        train("sequence", in_a_circle(), None, {**SMALL, "heads": 3})


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_onnx_gives_what_torch_gives(masked: bool, layers: int) -> None:
    torch.manual_seed(0)
    network = Network(16, 10, layers, 2, 0.2, masked=masked).eval()
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    content = to_onnx(network, 16)
    assert difference(network, content, made_histories(16, 10, 33)) < 1e-4


def test_a_file_that_differs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recserve_export.training.sequence.export.difference", lambda *_: 0.01)
    with pytest.raises(TrainingError, match=r"differs from the trained one by 0\.01"):
        to_onnx(Network(8, 4, 1, 1, 0.0, masked=False), 8)


def test_what_is_behind_a_position_does_not_change_it() -> None:
    """Attention must not see the future: each position is trained to tell it."""
    torch.manual_seed(0)
    network = Network(16, 10, 2, 2, 0.0, masked=False).eval()
    x, mask = torch.randn(1, 10, 16), torch.ones(1, 10)
    changed = x.clone()
    changed[:, 6:] = torch.randn(1, 4, 16)
    with torch.no_grad():
        before, after = network.run(x, mask, 10), network.run(changed, mask, 10)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_padding_does_not_count() -> None:
    torch.manual_seed(0)
    network = Network(16, 10, 2, 2, 0.0, masked=False).eval()
    vectors, pauses = torch.randn(1, 10, 16), torch.zeros(1, 10)
    mask = torch.tensor([[0.0] * 4 + [1.0] * 6])
    other = vectors.clone()
    other[:, :4] = 5.0
    with torch.no_grad():
        torch.testing.assert_close(network(vectors, pauses, mask), network(other, pauses, mask))
        assert torch.isfinite(network(vectors, pauses, torch.zeros(1, 10))).all()


def test_int8_is_taken_where_it_ranks_as_fp32_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = train("sequence", in_a_circle(), None, {**SMALL, "precision": "int8"})
    assert learned.network is not None
    assert learned.network.manifest.precision == "int8"
    assert learned.figures["int8"]["overlap"] >= 0.95
    assert following(learned, [0, 1, 2, 3]) == 4
    check_canonical(learned.network, tmp_path, "train again")
    fp32 = train("sequence", in_a_circle(), None, SMALL).network
    assert fp32 is not None
    with pytest.raises(SpaceError, match="canonical"):
        check_canonical(fp32._replace(canonical=learned.network.canonical), tmp_path, "train again")
    monkeypatch.setattr("recserve_export.training.sequence.int8._LEVELS", 1)
    with pytest.raises(TrainingError, match=r"int8 ranks otherwise than fp32: overlap@10 0\..*precision=fp32"):
        train("sequence", in_a_circle(), None, {**SMALL, "precision": "int8"})


class Ended(Exception):  # noqa: N818  # stands for kill -9
    """Ends a training between two epochs."""


@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_a_training_that_was_ended_goes_on(held_out: float, tmp_path: Path) -> None:
    log, settings = (
        log_of(40, 30, 800),
        settings_of("sequence", {**SMALL, "epochs": 4, "held_out": held_out, "patience": 9}),
    )
    whole = SequenceTrainer().train(log, None, settings)
    total: list[int] = []

    def ended_each_time(_: int) -> None:
        total.append(1)
        raise Ended

    learned = None
    while learned is None:
        with suppress(Ended):
            learned = SequenceTrainer().work(log, None, settings, Work(ended_each_time, tmp_path))
    assert len(total) == whole.figures["epochs"] + len(whole.figures["held_out_losses"])
    np.testing.assert_array_equal(vectors_of(learned), vectors_of(whole))
    assert learned.network == whole.network
    assert list(tmp_path.iterdir()) == []


def test_another_log_or_a_damaged_checkpoint_begins_anew(tmp_path: Path) -> None:
    settings = settings_of("sequence", {**SMALL, "epochs": 3})

    def end(_: int) -> None:
        raise Ended

    with pytest.raises(Ended):
        SequenceTrainer().work(log_of(40, 30, 800, seed=1), None, settings, Work(end, tmp_path))
    log = log_of(40, 30, 800)
    expected = SequenceTrainer().train(log, None, settings)
    found = SequenceTrainer().work(log, None, settings, Work(folder=tmp_path))
    assert found.network == expected.network
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    assert SequenceTrainer().work(log, None, settings, Work(folder=tmp_path)).network == expected.network
