"""The network of `sequence`: the vectors of the last behaviours -> a user vector, by gated transformer layers.

W.-C. Kang and J. McAuley, "Self-attentive sequential recommendation", ICDM 2018 (SASRec). Layers with gated residuals,
and sampled softmax: D. Tikhonovich et al., "eSASRec: enhancing transformer-based recommendations in a modular fashion",
RecSys 2025. The masked objective is that of F. Sun et al., "BERT4Rec", CIKM 2019.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import nn

#: Logarithm of the longest pause that is told apart, about a year in seconds.
_LONGEST: Final = math.log(3e7)


class Layer(nn.Module):  # type: ignore[misc]  # torch publishes its types, but they are skipped for speed
    """A transformer layer whose residual branches are gated by their input (LiGR); SwiGLU in the second branch."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim)
        self.out, self.gate = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.up, self.down, self.gate2 = nn.Linear(dim, 4 * dim), nn.Linear(2 * dim, dim), nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """[batch, queries, dim] of the last positions of x [batch, length, dim].

        Args:
            bias: [batch or 1, heads, queries, length] added to the attention's logits.
        """
        queries, dim = bias.shape[2], x.shape[2]
        normed, x = self.norm(x), x[:, -queries:]
        own = normed[:, -queries:]
        key, value = map(self._split, self.key_value(normed).chunk(2, -1))
        logits = self._split(self.query(own)) @ key.transpose(2, 3) / math.sqrt(dim // self.heads) + bias
        mixed = (logits.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = x + self.dropout(self.out(mixed)) * self.gate(own).sigmoid()
        normed = self.norm2(x)
        left, right = self.up(normed).chunk(2, -1)
        return x + self.dropout(self.down(nn.functional.silu(left) * right)) * self.gate2(normed).sigmoid()

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Network(nn.Module):  # type: ignore[misc]  # see Layer
    """Behaviours of a user, oldest first -> what comes next, as a vector whose products with item vectors are logits.

    Positions count only by their distance. So every position of a training window teaches the last one, which serves.
    """

    def __init__(self, dim: int, length: int, layers: int, heads: int, dropout: float, *, masked: bool) -> None:
        """
        Args:
            dim: Length of the vectors.
            length: Most behaviours.
            layers: Transformer layers.
            heads: Attention heads of a layer.
            dropout: Share of the values that are dropped in training.
            masked: Whether attention looks both ways, and a learned vector stands for what is asked (BERT4Rec).
        """
        super().__init__()
        self.length, self.masked = length, masked
        self.layers = nn.ModuleList(Layer(dim, heads, dropout) for _ in range(layers))
        self.pause = nn.Sequential(nn.Linear(1, 16), nn.SiLU(), nn.Linear(16, dim))
        self.distance = nn.Parameter(torch.zeros(heads, 2 * length + 1))
        self.asked = nn.Parameter(torch.zeros(dim))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)

    def forward(self, vectors: torch.Tensor, pauses: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, dim] user vectors.

        Args:
            vectors: [batch, length, dim] of the behaviours, the newest last.
            pauses: [batch, length] seconds since the behaviour before; 0 where that is not known.
            mask: [batch, length] 1 for a behaviour, 0 for the padding before the first.
        """
        x = self.embed(vectors, pauses)
        if self.masked:
            # What is asked takes the place of the oldest behaviour: the graph keeps its length.
            x = torch.cat([x[:, 1:], self.asked.expand(x.shape[0], 1, -1)], 1)
            mask = torch.cat([mask[:, 1:], torch.ones_like(mask[:, :1])], 1)
        return self.run(x, mask, 1)[:, 0]

    def embed(self, vectors: torch.Tensor, pauses: torch.Tensor) -> torch.Tensor:
        """[batch, length, dim] vectors with what their pauses mean."""
        return self.dropout(vectors + self.pause((pauses.clamp(min=0).log1p() / _LONGEST)[..., None]))

    def run(self, x: torch.Tensor, mask: torch.Tensor, queries: int) -> torch.Tensor:
        """[batch, queries, dim] outputs of the last positions."""
        length = x.shape[1]
        place = torch.arange(length)
        apart = place[:, None] - place[None, :]
        allowed = apart >= (-length if self.masked else 0)
        # A position always sees itself: an empty history gives a finite vector.
        seen = ((mask[:, None, None, :] > 0) & allowed) | (apart == 0)
        bias = self.distance[:, apart.clamp(-self.length, self.length) + self.length] + torch.where(seen, 0.0, -1e9)
        for layer in self.layers[:-1]:
            x = layer(x, bias)
        return self.norm(self.layers[-1](x, bias[:, :, -queries:]))
