"""Trains `text_head`: a residual network over frozen text vectors, by which items that belong together come closer.

A softmax over the items of a batch, corrected by how often each item is drawn (log-Q): X. Yi et al., "Sampling-bias-
corrected neural modeling for large corpus item recommendations", RecSys 2019. The encoder runs for no text again.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final, NamedTuple

import numpy as np
from msgspec import Meta

from recserve_export.errors import TrainingError
from recserve_export.one_thread import one_thread
from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings, Work, text_map
from recserve_export.training.hard_negatives import nearest_items, neighbour_share
from recserve_export.training.pairs import Pairs
from recserve_server_ext.common.arrays import Ints, Vectors

#: Passes over the pairs at most: in a small log `steps` would show each of them hundreds of times.
_PASSES: Final = 30
#: Items whose vectors are computed at once after the training.
_AT_ONCE: Final = 20_000


class TextHeadSettings(TrainSettings, frozen=True):
    """Settings of `text_head`.

    Attributes:
        hidden: Units of the hidden layer.
        steps: Updates of the weights at most.
        more_steps: The same on a log of which an earlier part was learned, as in an evaluation.
        batch: Pairs of items in an update; each pair has the items of the others as negatives.
        apart: Two items belong together when a user had to do with both, at most so many interactions apart.
        rate: Learning rate.
        scale: Factor of the cosines in the softmax.
        keep: Strength of the pull towards the text vectors, by the mean squared distance.
        hard: Nearest items by text, one of which is a further negative for each pair; 0 for none.
        correction: Share of the log-Q correction; 1 for all of it.
        layers: Hidden layers.
    """

    hidden: Annotated[int, Meta(ge=1, le=8192)] = 512
    steps: Annotated[int, Meta(ge=1, le=1_000_000)] = 600
    more_steps: Annotated[int, Meta(ge=0, le=1_000_000)] = 200
    batch: Annotated[int, Meta(ge=2, le=8192)] = 512
    apart: Annotated[int, Meta(ge=1, le=100)] = 3
    rate: Annotated[float, Meta(gt=0, le=1)] = 1e-3
    scale: Annotated[float, Meta(gt=0, le=1000)] = 20.0
    keep: Annotated[float, Meta(ge=0, le=1e6)] = 1.0
    hard: Annotated[int, Meta(ge=0, le=1000)] = 0
    correction: Annotated[float, Meta(ge=0, le=2)] = 1.0
    layers: Annotated[int, Meta(ge=1, le=8)] = 1


class TextHeadTrainer(Trainer):
    """Unit vectors of all items with a text, f(x) = normalise(x + W2 gelu(W1 x + b1) + b2), which begins as x."""

    Settings = TextHeadSettings
    is_slow = True
    goes_on = True
    needs_text = True
    grid = ({}, {"steps": 2000}, {"keep": 0.0})

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
        steps = min(steps, -(-_PASSES * pairs.count // settings.batch))
        with one_thread():
            found = _trained(text[items], pairs, settings, steps, work.before)
        figures = {"pairs": pairs.count, "loss": round(found.loss, 4)}
        return Learned(
            items=items,
            vectors=found.vectors,
            text_map=text_map(text, items, found.vectors),
            figures=figures,
            state=found.weights,
        )

    def needed_bytes(self, log: TrainingLog, settings: TextHeadSettings) -> int:
        """The pairs, and the text vectors twice."""
        return 8 * settings.apart * len(log.item) + 8 * 1024 * len(log.items)


class _Trained(NamedTuple):
    """A trained network.

    Attributes:
        vectors: [items, dim] its unit vectors.
        loss: Mean loss of the last tenth of the steps.
        weights: Its weights.
    """

    vectors: Vectors
    loss: float
    weights: Mapping[str, Any]


def _trained(
    text: Vectors, pairs: Pairs, settings: TextHeadSettings, steps: int, before: Mapping[str, Any] | None
) -> _Trained:
    """Train the network, from these weights where there are some."""
    # Here, since loading torch takes a while.
    import torch
    from torch.nn import functional

    torch.manual_seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    inputs = torch.from_numpy(np.ascontiguousarray(text))
    nearest = nearest_items(text, settings.hard) if settings.hard else None
    share = pairs.share if nearest is None else pairs.share + neighbour_share(nearest, pairs.share) / nearest.shape[1]
    log_share = settings.correction * torch.from_numpy(np.log(np.maximum(share, 1e-12)).astype(np.float32))
    network = _network(text.shape[1], settings.hidden, settings.layers)
    if before is not None:
        network.load_state_dict(before)
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=0.0)
    losses = []
    for _ in range(steps):
        sides = pairs.drawn(random, settings.batch)
        # The candidates of one side are the items of the other one, and hard negatives of these.
        candidates = [torch.from_numpy(_with_hard(items, nearest, random)) for items in sides]
        used, place = torch.unique(torch.cat(candidates), return_inverse=True)
        outputs = functional.normalize(inputs[used] + network(inputs[used]), dim=1)
        one, other = torch.split(outputs[place], len(candidates[0]))
        logits = [settings.scale * side[: settings.batch] @ of.T for side, of in ((one, other), (other, one))]
        loss = sum(_softmax_loss(*both, log_share) for both in zip(logits, candidates[::-1], strict=True)) / 2
        losses.append(loss.item())
        if settings.keep:
            loss = loss + settings.keep * ((outputs - inputs[used]) ** 2).sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        parts = [functional.normalize(part + network(part), dim=1).numpy() for part in torch.split(inputs, _AT_ONCE)]
    loss = float(np.mean(losses[-max(1, steps // 10) :] or [0.0]))
    return _Trained(np.concatenate(parts), loss, network.state_dict())


def _with_hard(items: Ints, nearest: Ints | None, random: np.random.Generator) -> Ints:
    """Items, and after them one of the nearest others of each."""
    if nearest is None:
        return items
    return np.concatenate([items, nearest[items, random.integers(nearest.shape[1], size=len(items))]])


def _network(dim: int, hidden: int, layers: int) -> Any:
    """What is added to a text vector; nothing at the beginning."""
    from torch import nn

    widths = [dim, *[hidden] * layers]
    stack = [part for width in pairwise(widths) for part in (nn.Linear(*width), nn.GELU())]
    last = nn.Linear(hidden, dim)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*stack, last)


def _softmax_loss(logits: Any, targets: Any, log_share: Any) -> Any:
    """Mean cross entropy of the diagonal, log-Q corrected; other places of the same item are no negatives.

    Args:
        logits: [pairs, candidates].
        targets: [candidates] their items; those of the pairs come first.
        log_share: [items].
    """
    import torch

    corrected = logits - log_share[targets][None]
    is_same = (targets[: len(logits), None] == targets[None]) & ~torch.eye(*logits.shape, dtype=torch.bool)
    return torch.nn.functional.cross_entropy(corrected.masked_fill(is_same, -1e4), torch.arange(len(logits)))
