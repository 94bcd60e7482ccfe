"""Trains `text_head`: a residual network over frozen text vectors, by which items that belong together come closer.

A softmax over items that are drawn evenly: Y. Bengio and J.-S. Senecal, "Adaptive importance sampling to accelerate
training of a neural probabilistic language model", IEEE Transactions on Neural Networks 2008. Each known item has a
vector of its own besides, left out at random: M. Volkovs, G. Yu and T. Poutanen, "DropoutNet", NeurIPS 2017. The
encoder runs for no text again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_export.errors import TrainingError
from recserve_export.one_thread import one_thread
from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings, Work, text_map
from recserve_export.training.pairs import Pairs
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.index.item_ids import places_of

#: Updates that an item takes part in, at most: in a small catalogue `steps` would be too many.
_PASSES: Final = 150
#: Items whose vectors are computed at once after the training.
_AT_ONCE: Final = 20_000


class TextHeadSettings(TrainSettings, frozen=True):
    """Settings of `text_head`.

    Attributes:
        hidden: Units of the hidden layer.
        steps: Updates of the weights at most.
        more_steps: The same on a log of which an earlier part was learned, as in an evaluation.
        batch: Items in an update.
        apart: Two items belong together when a user had to do with both, at most so many interactions apart.
        anywhere: Weight of the pairs of any two items of a user, however far apart, beside those. New items gain by it.
        rate: Learning rate.
        scale: Factor of the cosines in the softmax.
        keep: Strength of the pull towards the text vectors, by the mean squared distance.
        noise: Mean length of the normal noise that is added to a text vector, which has length 1, in an update.
        id_dropout: Share of the items of an update that do without their own vector; with 1 no item learns one.
    """

    hidden: Annotated[int, Meta(ge=1, le=8192)] = 512
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] = 600
    more_steps: Annotated[int, Meta(ge=0, le=1_000_000)] = 50
    batch: Annotated[int, Meta(ge=2, le=8192)] = 1024
    apart: Annotated[int, Meta(ge=1, le=100)] = 3
    anywhere: Annotated[float, Meta(ge=0, le=1)] = 0.5
    rate: Annotated[float, Meta(gt=0, le=1)] = 1e-3
    scale: Annotated[float, Meta(gt=0, le=1000)] = 10.0
    keep: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    noise: Annotated[float, Meta(ge=0, le=100)] = 0.6
    id_dropout: Annotated[float, Meta(ge=0, le=1)] = 0.5


class TextHeadTrainer(Trainer):
    """Unit vectors of all items with a text, normalise(f(x) + e), f(x) = x + W2 gelu(W1 x + b1) + b2, which begin as x.

    e is the item's own vector, 0 for items without interactions.
    """

    Settings = TextHeadSettings
    is_slow = True
    goes_on = True
    needs_text = True
    grid = ({}, {"noise": 0.0})

    def train(self, log: TrainingLog, text: Vectors | None, settings: TextHeadSettings) -> Learned:
        """Learn the network from pairs of items, and a linear map that stands for it where an item comes later."""
        return self.work(log, text, settings, Work())

    def work(self, log: TrainingLog, text: Vectors | None, settings: TextHeadSettings, work: Work) -> Learned:
        """See `train`; goes on from the weights of an earlier part of the log where there are some."""
        if text is None or not text.any():
            raise TrainingError(
                "the training 'text_head' needs text vectors of the log's items; run: recserve index build"
            )
        items = np.flatnonzero(text[: len(log.items)].any(axis=1))
        pairs = Pairs(log, items, settings.apart)
        steps = settings.steps if work.before is None else settings.more_steps
        # A log without pairs says nothing, and the network stays what it begins as.
        known = np.count_nonzero(pairs.share)
        steps = min(steps, -(-_PASSES * known // min(settings.batch, max(1, known))))
        ids = [log.items[item] for item in items.tolist()]
        with one_thread():
            head = _Head(text[items], settings, _before(work.before, ids))
            loss = head.train(pairs, steps)
            vectors, of_texts = head.vectors()
        return Learned(
            items=items,
            vectors=vectors,
            text_map=text_map(text, items, of_texts),
            figures={"pairs": pairs.count, "loss": round(loss, 4)},
            state=_State(ids, head.network.state_dict(), head.own.weight.detach().numpy()),
        )

    def needed_bytes(self, log: TrainingLog, settings: TextHeadSettings) -> int:
        """The pairs, the text vectors three times, and own vectors with the two moments of their updates."""
        return 64 * settings.apart * len(log.item) + 4 * 6 * 1024 * len(log.items)


class _State(NamedTuple):
    """What a longer log goes on from.

    Attributes:
        ids: Items.
        network: Weights of the network.
        own: [items, dim] their own vectors.
    """

    ids: list[str]
    network: Mapping[str, Any]
    own: Vectors


def _before(state: _State | None, ids: list[str]) -> _State | None:
    """The state with the own vectors of these items; 0 for those that it does not know."""
    if state is None:
        return None
    places = places_of(ids, {item: place for place, item in enumerate(state.ids)})
    return state._replace(ids=ids, own=np.where((places >= 0)[:, None], state.own[places], np.float32(0.0)))


class _Head:
    """The network and the items' own vectors.

    Attributes:
        network: What is added to a text vector; nothing at the beginning.
        own: [items, dim] embedding; 0 at the beginning.
    """

    def __init__(self, text: Vectors, settings: TextHeadSettings, before: _State | None) -> None:
        """
        Args:
            text: [items, dim] unit vectors.
            settings: Of the training.
            before: Goes on from there; `None` to begin anew.
        """
        # Here, since loading torch takes a while.
        import torch
        from torch import nn

        torch.manual_seed(settings.seed)
        self._settings, self._text = settings, torch.from_numpy(np.ascontiguousarray(text))
        items, dim = text.shape
        last = nn.Linear(settings.hidden, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.network = nn.Sequential(nn.Linear(dim, settings.hidden), nn.GELU(), last)
        own = torch.zeros(items, dim)
        if before is not None:
            self.network.load_state_dict(before.network)
            own = torch.from_numpy(before.own.copy())
        # Sparse: an update costs what its batch has, however many items there are.
        self.own = nn.Embedding.from_pretrained(own, freeze=False, sparse=True)

    def train(self, pairs: Pairs, steps: int) -> float:
        """Update the weights; the mean loss of the last tenth of the steps."""
        import torch

        settings = self._settings
        random = np.random.default_rng(settings.seed)
        known = np.flatnonzero(pairs.share)
        optimizers = [
            torch.optim.AdamW(self.network.parameters(), lr=settings.rate, weight_decay=0.0),
            torch.optim.SparseAdam(self.own.parameters(), lr=settings.rate),
        ]
        losses = []
        for _ in range(steps):
            drawn = np.sort(random.permutation(known)[: settings.batch])
            outputs, pull = self._outputs(torch.from_numpy(drawn))
            shares = torch.from_numpy(pairs.shares(drawn, settings.anywhere))
            loss = _softmax_loss(settings.scale * outputs @ outputs.T, shares)
            losses.append(loss.item())
            for optimizer in optimizers:
                optimizer.zero_grad()
            (loss + settings.keep * pull).backward()
            for optimizer in optimizers:
                optimizer.step()
        return float(np.mean(losses[-max(1, steps // 10) :] or [0.0]))

    def _outputs(self, used: Any) -> tuple[Any, Any]:
        """[used, dim] unit vectors of items in an update; mean squared distance to the texts, by the network alone."""
        import torch
        from torch.nn import functional

        text, settings = self._text[used], self._settings
        found = text + self.network(text + settings.noise / text.shape[1] ** 0.5 * torch.randn_like(text))
        has_own = torch.rand(len(used), 1) >= settings.id_dropout
        pull = ((functional.normalize(found, dim=1) - text) ** 2).sum(dim=1).mean()
        return functional.normalize(found + has_own * self.own(used), dim=1), pull

    def vectors(self) -> tuple[Vectors, Vectors]:
        """[items, dim] unit vectors of all items, and those that their texts alone have."""
        import torch
        from torch.nn import functional

        whole, of_texts = [], []
        with torch.no_grad():
            pairs = zip(torch.split(self._text, _AT_ONCE), torch.split(self.own.weight, _AT_ONCE), strict=True)
            for text, own in pairs:
                found = text + self.network(text)
                whole.append(functional.normalize(found + own, dim=1).numpy())
                of_texts.append(functional.normalize(found, dim=1).numpy())
        return np.concatenate(whole), np.concatenate(of_texts)


def _softmax_loss(logits: Any, shares: Any) -> Any:
    """Mean cross entropy of pairs of different items, each item of a batch against all others.

    Items are drawn evenly, so that the softmax needs no correction for how often each is.

    Args:
        logits: [items, items].
        shares: [items, items] weights of the pairs, 0 for an item and itself.
    """
    import torch

    others = logits.masked_fill(torch.eye(len(logits), dtype=torch.bool), -1e4)
    return -(shares * torch.log_softmax(others, dim=1)).sum() / shares.sum().clamp(min=1e-12)
