"""Fits the network of `sequence` and the vectors of items, on all windows of histories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from recserve_export.training.base import TrainingLog
from recserve_export.training.sequence.checkpoint import Checkpoint, Saved
from recserve_export.training.sequence.group import ALONE, Group
from recserve_export.training.sequence.network import Network
from recserve_export.training.sequence.settings import HistoryNetworkSettings, SequenceSettings
from recserve_export.training.sequence.start import start_vectors
from recserve_export.training.sequence.windows import Windows, batches, windows_of
from recserve_server_ext.common.arrays import Ints, Vectors

#: Share of the behaviours that the masked objective hides.
_HIDDEN: Final = 0.2
#: Never, in microseconds since 1970.
_NEVER: Final = np.iinfo(np.int64).max
#: Logit of what must not be chosen.
OUT: Final = -1e9


T = TypeVar("T", bound="HistoryTraining")


class Fitted(NamedTuple, Generic[T]):
    """What was fitted.

    Attributes:
        training: The training, with the network for inference.
        losses: Loss on what was held out after each epoch of the search for their number.
        epochs: Number of epochs of the training on everything.
    """

    training: T
    losses: list[float]
    epochs: int


class Earlier(NamedTuple):
    """What was fitted to an earlier part of a log.

    Attributes:
        items: [items] those with interactions then, ascending.
        network: State of the network.
        vectors: [items, dim] float32 item vectors.
    """

    items: Ints
    network: Mapping[str, Any]
    vectors: Vectors


def go_on(training: T, epochs: int) -> Fitted[T]:
    """Train on a longer part of a log, from what was fitted to an earlier one, for a few epochs."""
    for _ in range(epochs):
        training.epoch()
    for module in training.modules.values():
        module.eval()
    return Fitted(training, [], epochs)


def fit(
    kind: type[T],
    log: TrainingLog,
    items: Ints,
    settings: HistoryNetworkSettings,
    checkpoint: Checkpoint,
    done: Callable[[int], None] = lambda _: None,
    group: Group = ALONE,
) -> Fitted[T]:
    """Find the number of epochs with the newest part of the log held out, then train on all of it for so many.

    Args:
        kind: Class of the training.
        log: The log.
        items: [items] those with interactions, ascending.
        settings: Settings.
        checkpoint: Written after each epoch; a training that was ended goes on from it.
        done: Called with 1 after each epoch.
        group: Workers that train together; each of them calls this.
    """
    losses, epochs, *_ = saved = checkpoint.read() or Saved([], 0, 0, {})
    if not epochs:
        epochs = settings.epochs
        if (held_us := _held_us(log, settings.held_out)) < _NEVER:
            search = kind(log, items, settings, held_us, saved.state, group=group)
            while len(losses) < settings.epochs and not _is_over(losses, settings.patience):
                search.epoch()
                losses.append(search.held_loss())
                checkpoint.write(Saved(losses, 0, 0, search.state()))
                done(1)
            epochs = int(np.argmin(losses)) + 1
        saved = Saved(losses, epochs, 0, {})
    training = kind(log, items, settings, state=saved.state, group=group)
    for number in range(saved.done, epochs):
        training.epoch()
        checkpoint.write(Saved(losses, epochs, number + 1, training.state()))
        done(1)
    for module in training.modules.values():
        module.eval()
    return Fitted(training, losses, epochs)


def _held_us(log: TrainingLog, share: float) -> int:
    """Time from which this share of the log is held out; never where no time does that."""
    found = int(np.quantile(log.time_us, 1.0 - share, method="higher")) if share else _NEVER
    return found if found > log.time_us.min() else _NEVER


def _is_over(losses: list[float], patience: int) -> bool:
    """Whether the last epochs brought nothing."""
    return len(losses) > patience and min(losses[-patience:]) > min(losses[:-patience])


class HistoryTraining(ABC):
    """A training in progress: a network over histories, the item vectors that it takes, and the optimiser.

    Attributes:
        network: The network.
        table: [items, dim] the item vectors.
        modules: What is fitted besides the table, by name.
    """

    def __init__(
        self,
        log: TrainingLog,
        items: Ints,
        settings: HistoryNetworkSettings,
        held_us: int = _NEVER,
        state: Mapping[str, Any] | None = None,
        earlier: Earlier | None = None,
        group: Group = ALONE,
    ) -> None:
        """Start anew, from a state or from an earlier fit; behaviours from `held_us` on are no targets.

        The workers of a group start from the same values, and draw different random numbers afterwards.
        """
        torch.manual_seed(settings.seed)
        self._group = group
        self.log, self.items, self.settings, self._held_us = log, items, settings, held_us
        self._random = np.random.default_rng(settings.seed)
        self.network = Network(
            settings.dim,
            settings.length,
            settings.layers,
            settings.heads,
            settings.dropout,
            masked=settings.is_masked,
        )
        start = start_vectors(log, items, settings.dim, settings.seed)
        if earlier is not None:
            self.network.load_state_dict(earlier.network)
            start = moved(start, items, earlier.items, earlier.vectors)
        self.table = nn.Parameter(torch.from_numpy(start))
        self.modules: dict[str, nn.Module] = {"network": self.network, **self.further_modules(earlier)}
        self._clipped = [value for module in self.modules.values() for value in module.parameters()]
        self._optimiser = torch.optim.AdamW([*self._clipped, self.table], lr=settings.rate, weight_decay=settings.decay)
        share = np.sqrt(log.counts[items])
        self._share = torch.from_numpy(share / share.sum()).float()
        if group.count > 1:
            torch.manual_seed(settings.seed + 1 + group.rank)
        if state:
            self._restore(state)

    def further_modules(self, earlier: Any) -> dict[str, nn.Module]:
        """What is fitted besides the network and the table, by name: nothing here."""
        return {}

    def earlier(self) -> Any:
        """What a training of a longer part of the log goes on from."""
        return Earlier(self.items, self.network.state_dict(), self.vectors())

    def vectors(self) -> Vectors:
        """[items, dim] float32 the item vectors."""
        found: Vectors = self.table.detach().numpy().copy()
        return found

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on."""
        return {
            **{name: module.state_dict() for name, module in self.modules.items()},
            "table": self.table.detach(),
            "optimiser": self._optimiser.state_dict(),
            "torch": torch.random.get_rng_state(),
            "numpy": self._random.bit_generator.state,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, module in self.modules.items():
            module.load_state_dict(state[name])
        self.table.data.copy_(state["table"])
        self._optimiser.load_state_dict(state["optimiser"])
        torch.random.set_rng_state(state["torch"])
        self._random.bit_generator.state = state["numpy"]

    def epoch(self) -> None:
        """Pass over the windows of all histories once."""
        for module in self.modules.values():
            module.train()
        windows = windows_of(self.log, self.items, self.settings.length, self._held_us, self._random)
        for part in batches(windows, self.settings.batch, self._random):
            self._optimiser.zero_grad(set_to_none=True)
            own = part if self._group.count == 1 else part.take(slice(self._group.rank, None, self._group.count))
            loss, count = self._loss(own, held=False) if len(own.item) else (torch.zeros(()), 0)
            total = self._group.total(count)
            if count:
                (loss * (count / total)).backward()
            if total:
                self._group.add_up([*self._clipped, self.table])
                nn.utils.clip_grad_norm_(self._clipped, 1.0)
                self._optimiser.step()

    def held_loss(self) -> float:
        """Mean loss on the behaviours that are held out."""
        for module in self.modules.values():
            module.eval()
        random = np.random.default_rng(self.settings.seed)
        state = torch.random.get_rng_state()
        windows = windows_of(self.log, self.items, self.settings.length, self._held_us, random)
        windows = windows.take(np.flatnonzero(windows.held[:, 1:].any(axis=1)))
        with torch.no_grad():
            found = [self._loss(part, held=True) for part in batches(windows, self.settings.batch, random)]
        torch.random.set_rng_state(state)
        mean = sum(float(loss) * count for loss, count in found) / max(sum(count for _, count in found), 1)
        # One value for all, since it decides when they end.
        return self._group.agreed(mean)

    def _loss(self, part: Windows, *, held: bool) -> tuple[Any, int]:
        """Mean loss over the targets that are held out, or over the others; and their number."""
        item, pause = torch.from_numpy(part.item), torch.from_numpy(part.pause).float()
        known, wanted = item >= 0, torch.from_numpy(part.held == held)
        x = self.network.embed(self.table[item.clamp(min=0)], pause)
        if self.network.masked:
            hidden = known & (torch.rand(item.shape) < _HIDDEN) if not held else wanted
            x = torch.where(hidden[..., None], self.network.asked, x)
            chosen, target = hidden & wanted & known, item
        else:
            x, known, chosen, target = x[:, :-1], known[:, :-1], (wanted & known)[:, 1:], item[:, 1:]
        outputs = self.network.run(x, known.float(), x.shape[1])
        return self.loss(outputs[chosen], target[chosen]), int(chosen.sum())

    @abstractmethod
    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Mean loss of outputs [n, dim] whose next items are the targets [n], as places in the table."""


class SequenceTraining(HistoryTraining):
    """The training of `sequence`: products of outputs and item vectors are logits."""

    settings: SequenceSettings

    def loss(self, outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Cross entropy over all items, or over drawn ones where there are many, corrected by their chance (log-Q)."""
        if len(self.table) <= self.settings.exact_items:
            return nn.functional.cross_entropy(outputs @ self.table.T, target)
        drawn = torch.multinomial(self._share, self.settings.negatives, replacement=True)
        logits = outputs @ self.table[drawn].T - (self._share[drawn] * len(drawn)).log()
        logits = logits.masked_fill(drawn == target[:, None], OUT)
        own = (outputs * self.table[target]).sum(1, keepdim=True)
        return nn.functional.cross_entropy(torch.cat([own, logits], 1), torch.zeros_like(target))


def moved(start: Vectors, items: Ints, earlier_items: Ints, earlier: Vectors) -> Vectors:
    """[items, dim] the vectors of an earlier fit; those of other items by least squares from the first vectors."""
    place = np.searchsorted(items, earlier_items)
    to_fitted, *_ = np.linalg.lstsq(start[place], earlier, rcond=None)
    found: Vectors = (start @ to_fitted).astype(np.float32)
    found[place] = earlier
    return found
