"""Batches and what is minimised, against plain arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recserve_export.training.encoder.batches import NUMBER, Batches, weights
from recserve_export.training.encoder.objective import Objective, _within
from recserve_export.training.encoder.settings import EncoderSettings
from recserve_export.training.encoder.texts import ItemTexts
from recserve_export.training.pairs import Pairs
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.encoder.item_vectors import PairCollector
from support.training_logs import log_of

ITEMS, DIM = 30, 8


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pairs_of(items: int = ITEMS, interactions: int = 400) -> Pairs:
    return Pairs(log_of(40, items, interactions), np.arange(items), 2)


def texts_of(items: int = ITEMS) -> ItemTexts:
    """Items with one to three texts; every fifth has the same first one."""
    collector, fields = PairCollector({"b": 0.5}), []
    for item in range(items):
        own = {"a": "same" if item % 5 == 0 else f"word{item}", "b": f"other {item}", "c": f"third {item % 3}"}
        chosen = dict(list(own.items())[: 1 + item % 3])
        collector.add(chosen)
        fields += list(range(len(chosen)))
    return ItemTexts([f"i{n}" for n in range(items)], collector.pairs(), np.array(fields), ["a", "b", "c"])


def tokens(texts: Sequence[str]) -> dict[str, Any]:
    """Ids that tell the texts apart, six tokens each."""
    ids = torch.tensor([[sum(map(ord, text)) % 97 + place for place in range(6)] for text in texts])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class Encoder(nn.Module):  # type: ignore[misc]  # torch publishes its types, but they are skipped for speed
    """The mean of token embeddings that are not masked."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embeddings = nn.Embedding(200, DIM)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        mask = features["attention_mask"][..., None].float()
        return {"sentence_embedding": (self.embeddings(features["input_ids"]) * mask).sum(1) / mask.sum(1)}


class Noisy(Encoder):
    """With noise that is another one in each call, as dropout is."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(1)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        found = super().forward(features)["sentence_embedding"]
        return {"sentence_embedding": found + torch.randn(found.shape, generator=self.generator)}


def batch_of(settings: EncoderSettings, number: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found = Batches(texts_of(), pairs_of(), settings, tokens)([{NUMBER: number}])
    label = found.pop("label")
    parts = sorted({name.partition("_")[0] for name in found})
    return [{name[2:]: found[name] for name in found if name[0] == part} for part in parts], label


def loss_of(first: Vectors | None = None, **given: Any) -> tuple[torch.Tensor, Encoder]:
    settings, encoder = EncoderSettings(pairs=12, **{"distil": 0.0, **given}), Encoder()
    return Objective(encoder, encoder.embeddings, settings, first)(*batch_of(settings)), encoder


def test_a_batch_stands_for_all_pairs_of_the_log() -> None:
    pairs, random = pairs_of(), np.random.default_rng(1)
    sums, rounds = np.zeros((ITEMS, ITEMS)), 4000
    for _ in range(rounds):
        items = np.unique(np.concatenate(pairs.drawn(random, 12)))
        found, chance = weights(pairs, items, 12, 2.0 * pairs.share)
        assert found.shape == (len(items), len(items))
        assert ((chance > 0) & (chance < 1)).all()
        sums[np.ix_(items, items)] += found / rounds
    expected = pairs.counts.toarray()
    assert expected.sum() == 2 * pairs.count
    many = expected >= 4
    assert many.sum() > 20
    np.testing.assert_allclose(sums[many], expected[many], rtol=0.15)
    assert sums.sum() == pytest.approx(expected.sum(), rel=0.02)
    assert (sums[expected == 0] == 0).all()


def test_the_loss_is_the_weighted_softmax_over_the_batch() -> None:
    loss, encoder = loss_of()
    features, label = batch_of(EncoderSettings(pairs=12))
    vectors = np.concatenate([encoder(part)["sentence_embedding"].detach().numpy() for part in features])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chance, weight = np.exp(label["log_chance"].numpy()), label["weight"].numpy()
    items = np.zeros((len(chance), DIM))
    for place, owner, of in zip(label["place"], label["owner"], label["field_weight"], strict=True):
        items[owner] += float(of) * vectors[place]
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    total = mass = 0.0
    for one, anchor in enumerate(items):
        others = [other for other in range(len(items)) if anchor @ items[other] < 1 - 1e-5]
        assert one not in others
        scores = {other: np.exp(20.0 * anchor @ items[other]) / chance[other] for other in others}
        total -= sum(weight[one, other] * np.log(scores[other] / sum(scores.values())) for other in others)
        mass += sum(weight[one, other] for other in others)
    assert loss.item() == pytest.approx(total / mass, rel=1e-4)


def test_items_with_the_same_texts_are_no_negatives_of_each_other() -> None:
    settings, encoder = EncoderSettings(pairs=12, distil=0.0), Encoder()
    objective = Objective(encoder, encoder.embeddings, settings, None)
    features, label = batch_of(settings)
    plain = objective(features, label)
    # The first two items have one text, the same one.
    twins = torch.isin(label["owner"], torch.tensor([0, 1]))
    place = torch.where(twins, label["place"][0], label["place"])
    loss = objective(features, {**label, "place": place})
    weight = label["weight"].clone()
    weight[0, 1] = weight[1, 0] = 1e9
    assert objective(features, {**label, "place": place, "weight": weight}).item() == pytest.approx(
        loss.item(), rel=1e-5
    )
    assert objective(features, {**label, "weight": weight}).item() != pytest.approx(plain.item(), rel=1e-3)


def test_each_text_of_a_batch_is_encoded_once() -> None:
    features, label = batch_of(EncoderSettings(pairs=12))
    encoded = sum(len(part["input_ids"]) for part in features)
    assert encoded == len(label["text"]) == len(set(label["text"].tolist()))
    assert encoded < len(label["place"])


def test_a_number_gives_the_same_batch_and_another_one_another() -> None:
    settings = EncoderSettings(pairs=12, drop_fields=0.5, drop_tokens=0.3)
    one, same, other = (batch_of(settings, number)[1] for number in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["text"], other["text"])


def test_an_item_keeps_a_field_and_a_text_its_first_token() -> None:
    plain = batch_of(EncoderSettings(pairs=12))[1]
    features, label = batch_of(EncoderSettings(pairs=12, drop_fields=0.95, drop_tokens=0.9))
    assert set(label["owner"].tolist()) == set(plain["owner"].tolist())
    assert len(label["owner"]) < len(plain["owner"])
    for part in features:
        assert (part["attention_mask"][:, 0] == 1).all()
        assert part["attention_mask"].float().mean() < 0.5


def test_one_field_of_a_swapped_item_asks_and_the_others_are_asked_for() -> None:
    plain = batch_of(EncoderSettings(pairs=12))[1]
    assert plain["asks"].all()
    assert plain["asked"].all()
    label = batch_of(EncoderSettings(pairs=12, swap_fields=1.0))[1]
    for owner in range(len(label["log_chance"])):
        of_owner = label["owner"] == owner
        asks, asked = label["asks"][of_owner], label["asked"][of_owner]
        if len(asks) == 1:
            assert asks.all()
            assert asked.all()
        else:
            assert asks.sum() == 1
            assert torch.equal(asked, ~asks)
    some = batch_of(EncoderSettings(pairs=12, swap_fields=0.5))[1]
    several = torch.bincount(some["owner"])[some["owner"]] > 1
    assert 0 < (~some["asked"]).sum() < several.sum() / 2
    loss, encoder = loss_of(swap_fields=1.0)
    assert loss.item() != pytest.approx(loss_of()[0].item(), rel=1e-3)
    loss.backward()
    assert encoder.embeddings.weight.grad.abs().sum() > 0


def test_a_text_looks_for_its_second_view() -> None:
    settings, encoder = EncoderSettings(pairs=12, distil=0.0, views=0.5), Noisy()
    features, label = batch_of(settings)
    views = Noisy()
    first, second = (
        np.concatenate([views(part)["sentence_embedding"].detach() for part in features]) for _ in range(2)
    )
    first, second = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (first, second))
    scores = np.exp(20.0 * first @ second.T)
    own = -np.log(np.diag(scores) / scores.sum(axis=1)).mean()
    loss = Objective(encoder, encoder.embeddings, settings, None)(features, label)
    plain = Noisy()
    without = Objective(plain, plain.embeddings, EncoderSettings(pairs=12, distil=0.0), None)(features, label)
    assert own > 0.01
    assert loss.item() - without.item() == pytest.approx(0.5 * own, rel=1e-3)


def test_the_adversarial_step_makes_it_harder() -> None:
    plain, _ = loss_of()
    both, encoder = loss_of(adversarial=0.5)
    assert both.item() - plain.item() > plain.item() * 1.01
    both.backward()
    assert encoder.embeddings.weight.grad.abs().sum() > 0
    assert not encoder.embeddings._forward_hooks


def test_small_steps_stay_within_the_length_and_make_it_harder() -> None:
    plain, _ = loss_of()
    free, encoder = loss_of(adversarial=0.5, adversarial_steps=3)
    assert free.item() > plain.item() * 1.005
    free.backward()
    assert encoder.embeddings.weight.grad.abs().sum() > 0
    assert not encoder.embeddings._forward_hooks
    # Each of two views is moved by steps of its own.
    views, encoder = loss_of(adversarial=0.5, adversarial_steps=3, views=0.5)
    assert views.item() > free.item()
    views.backward()
    assert encoder.embeddings.weight.grad.abs().sum() > 0
    # No step at all where the ball is a point.
    still, _ = loss_of(adversarial=1e-9, adversarial_steps=3)
    assert still.item() == pytest.approx(plain.item(), abs=1e-5)
    long = torch.ones(2, 3, 4)
    assert _within(long, 1.0).flatten(1).norm(dim=1).tolist() == pytest.approx([1.0, 1.0])
    assert torch.equal(_within(0.01 * long, 1.0), 0.01 * long)


def test_hard_negatives_come_into_the_batch_with_their_items() -> None:
    texts, pairs, settings = texts_of(), pairs_of(), EncoderSettings(pairs=3, hard=2)
    nearest = np.stack([(np.arange(ITEMS) + 1) % ITEMS, (np.arange(ITEMS) + 2) % ITEMS], axis=1)
    plain, hard = (Batches(texts, pairs, settings, tokens, of)([{NUMBER: 0}])["label"] for of in (None, nearest))
    random = np.random.default_rng([0, 0])
    drawn = np.unique(np.concatenate(pairs.drawn(random, 3)))
    assert len(plain["log_chance"]) == len(drawn)
    assert len(hard["log_chance"]) == len(np.union1d(drawn, nearest[drawn])) > len(drawn)
    # They are there more often than by themselves, and never more than always.
    assert (hard["log_chance"] <= 0).all()
    assert float(hard["log_chance"].mean()) > float(plain["log_chance"].mean())


def test_what_holds_it_back_is_nothing_at_first() -> None:
    plain, encoder = loss_of()
    texts = texts_of().weighted.texts
    first = encoder(tokens(texts))["sentence_embedding"].detach().numpy()
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    assert loss_of(first, distil=7.0)[0].item() == pytest.approx(plain.item(), abs=1e-4)
    assert loss_of(-first, distil=7.0)[0].item() == pytest.approx(plain.item() + 14.0, abs=1e-3)
    settings = EncoderSettings(pairs=12, near=3.0, distil=0.0)
    held = Objective(encoder, encoder.embeddings, settings, None)
    assert held(*batch_of(settings)).item() == pytest.approx(plain.item(), abs=1e-5)
    with torch.no_grad():
        encoder.embeddings.weight[199] += 0.5  # of no text
    assert held(*batch_of(settings)).item() == pytest.approx(plain.item() + 1.5 * DIM * 0.25, abs=1e-4)
