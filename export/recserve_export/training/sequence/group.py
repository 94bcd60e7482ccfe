"""Workers that train one network together: each has a share of the windows of a step, and all take the same step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import distributed


class Group:
    """The workers of a training, over torch.distributed; a group of one does nothing.

    Attributes:
        rank: Number of this worker, from 0.
        count: Number of workers.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    def total(self, count: int) -> int:
        """The sum of a number over the workers."""
        return round(float(self._all(torch.tensor([count], dtype=torch.float64)).item()))

    def agreed(self, value: float) -> float:
        """The mean of a number over the workers, the same for each."""
        return float(self._all(torch.tensor([value], dtype=torch.float64)).item()) / self.count

    def add_up(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace gradients by their sum over the workers; one that has none counts as zeros."""
        if self.count == 1:
            return
        gradients = [torch.zeros_like(of) if of.grad is None else of.grad for of in parameters]
        summed = self._all(torch.cat([of.flatten() for of in gradients]))
        for of, part in zip(parameters, summed.split([of.numel() for of in parameters]), strict=True):
            of.grad = part.view_as(of).clone()

    def _all(self, values: torch.Tensor) -> torch.Tensor:
        if self.count > 1:
            distributed.all_reduce(values)
        return values


#: A training in one process.
ALONE: Final = Group()
