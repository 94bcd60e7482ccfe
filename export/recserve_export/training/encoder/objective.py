"""What a training of an encoder minimises.

A softmax over the items of a batch, corrected by the chance of each to be there (log-Q): X. Yi et al., "Sampling-bias-
corrected neural modeling for large corpus item recommendations", RecSys 2019.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import nn
from torch.nn import functional

from recserve_export.training.encoder.settings import EncoderSettings
from recserve_server_ext.common.arrays import Vectors

#: A greater cosine is that of the same texts.
_SAME: Final = 1.0 - 1e-5
Features = Sequence[Mapping[str, torch.Tensor]]
Label = Mapping[str, torch.Tensor]


class Objective(nn.Module):  # type: ignore[misc]
    """The loss of a batch.

    Attributes:
        model: The encoder in training; the trainer may put a wrapped one in its place.
    """

    def __init__(
        self, model: nn.Module, embeddings: nn.Module, settings: EncoderSettings, first: Vectors | None
    ) -> None:
        """
        Args:
            model: A sentence-transformers model.
            embeddings: Its token embeddings.
            settings: Settings.
            first: [texts, dim] vectors of the texts before the training; `None` where none are needed.
        """
        super().__init__()
        self.model = model
        self._embeddings, self._settings = [embeddings], settings  # in a list: it is no part of this module
        self._first = None if first is None else torch.from_numpy(first)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._start = [(parameter, parameter.detach().clone()) for parameter in trained] if settings.near else []

    def forward(self, features: Features, label: Label) -> torch.Tensor:
        """The loss of a batch of `Batches`."""
        if not self._settings.adversarial:
            return self._loss(features, label) + self._pull()
        if self._settings.adversarial_steps:
            return self._free(features, label) + self._pull()
        with _steps(self._embeddings[0]) as seen:
            loss = self._loss(features, label)
        found = torch.autograd.grad(loss, seen, retain_graph=True)
        steps = [self._settings.adversarial * _unit(one) for one in found]
        with _steps(self._embeddings[0], steps):
            harder = self._loss(features, label)
        return loss + harder + self._pull()

    def _free(self, features: Features, label: Label) -> torch.Tensor:
        """The mean loss at K points that climb within a ball around the token embeddings (FreeLB).

        C. Zhu et al., "FreeLB: enhanced adversarial training for natural language understanding", ICLR 2020. The first
        point is drawn in the ball; a step is 2.5 / K of its radius (A. Madry et al., ICLR 2018), for each text.
        """
        radius, count = self._settings.adversarial, self._settings.adversarial_steps
        encoded = [*features, *features] if self._settings.views else features
        shapes = [self._embeddings[0](part["input_ids"]).detach() for part in encoded]
        steps = [_unit(torch.randn_like(one)) * radius * torch.rand(len(one), 1, 1).to(one.device) for one in shapes]
        losses: list[torch.Tensor] = []
        for _ in range(count):
            with _steps(self._embeddings[0], steps) as seen:
                loss = self._loss(features, label)
            losses.append(loss)
            climbs = torch.autograd.grad(loss, seen, retain_graph=True)
            steps = [
                _within(one + 2.5 * radius / count * _unit(climb), radius)
                for one, climb in zip(steps, climbs, strict=True)
            ]
        return torch.stack(losses).mean()

    def _loss(self, features: Features, label: Label) -> torch.Tensor:
        found = self._encoded(features)
        second = self._encoded(features) if self._settings.views else None
        with torch.autocast(found.device.type, enabled=False):  # eight bits are too few for a logit
            texts = functional.normalize(found, dim=1)
            loss = self._of_texts(texts, label)
            if second is None:
                return loss
            return loss + self._settings.views * self._of_views(texts, functional.normalize(second, dim=1))

    def _encoded(self, features: Features) -> torch.Tensor:
        return torch.cat([self.model(dict(part))["sentence_embedding"].float() for part in features])

    def _of_views(self, texts: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The loss of texts that look for their second view.

        T. Gao, X. Yao, D. Chen, "SimCSE: simple contrastive learning of sentence embeddings", EMNLP 2021.
        """
        own = torch.arange(len(texts), device=texts.device)
        return functional.cross_entropy(self._settings.scale * texts @ second.T, own)

    def _of_texts(self, texts: torch.Tensor, label: Label) -> torch.Tensor:
        weighted = texts[label["place"]] * label["field_weight"][:, None]
        sums = torch.zeros(len(label["log_chance"]), texts.shape[1], device=texts.device)

        def items(which: torch.Tensor) -> torch.Tensor:
            return functional.normalize(sums.index_add(0, label["owner"], weighted * which[:, None]), dim=1)

        cosines = items(label["asks"]) @ items(label["asked"]).T
        # An item is no candidate for itself, nor is one with the same texts: it could only be told apart by a collapse.
        same = (cosines.detach() > _SAME).fill_diagonal_(True)
        logits = (self._settings.scale * cosines - label["log_chance"][None]).masked_fill(same, -1e4)
        weight = label["weight"].masked_fill(same, 0.0)
        loss = -(weight * functional.log_softmax(logits, dim=1)).sum() / weight.sum().clamp(min=1e-12)
        if self._first is not None:
            first = self._first[label["text"].cpu()].to(texts.device)
            loss = loss + self._settings.distil * (1.0 - (texts * first).sum(dim=1)).mean()
        return loss

    def _pull(self) -> torch.Tensor | float:
        """Half the squared distance of the weights to the first ones (L2-SP: X. Li et al., ICML 2018)."""
        return self._settings.near / 2 * sum(((now - start) ** 2).sum() for now, start in self._start)


def _unit(steps: torch.Tensor) -> torch.Tensor:
    """Steps [texts, tokens, dim] of length 1 for each text."""
    return functional.normalize(steps.flatten(1), dim=1).view_as(steps)


def _within(steps: torch.Tensor, radius: float) -> torch.Tensor:
    """Steps that are no longer than the radius, for each text."""
    lengths = steps.flatten(1).norm(dim=1)[:, None, None]
    return steps * (radius / lengths.clamp(min=radius))


@contextmanager
def _steps(embeddings: nn.Module, steps: Sequence[torch.Tensor] = ()) -> Iterator[list[torch.Tensor]]:
    """Within the block, token embeddings are collected, a tensor a call; or moved by these steps.

    T. Miyato et al., "Adversarial training methods for semi-supervised text classification", ICLR 2017.
    """
    seen: list[torch.Tensor] = []

    def hook(_: nn.Module, __: Any, output: torch.Tensor) -> torch.Tensor:
        output = output if output.requires_grad else output.detach().requires_grad_()
        seen.append(output)
        return output + steps[len(seen) - 1] if steps else output

    handle = embeddings.register_forward_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()
