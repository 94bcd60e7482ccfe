"""The decoder of `generate`: a causal transformer over the codes of an id, after the vector of a user.

D. Lee et al., "Autoregressive image generation using residual quantization", CVPR 2022 (RQ-Transformer): a large
network reads what came before, and a small one generates the codes of what comes next.
"""

from __future__ import annotations

import torch
from torch import nn

from recserve_export.training.sequence.network import Layer

#: What the attention never looks at.
_OUT = -1e9


class DecoderNetwork(nn.Module):  # type: ignore[misc]  # torch publishes its types, but they are skipped for speed
    """A user vector and the codes so far -> log p of the next code, and a query for the items that share all codes."""

    def __init__(self, codebooks: torch.Tensor, layers: int, heads: int, dropout: float) -> None:
        """
        Args:
            codebooks: [levels, codes, dim] centres, which codes begin with.
            layers: Transformer layers.
            heads: Attention heads of a layer.
            dropout: Share of the values that are dropped in training.
        """
        super().__init__()
        levels, codes, dim = codebooks.shape
        self.embedded = nn.Parameter(codebooks.clone().reshape(levels * codes, dim))
        self.heads = nn.Parameter(codebooks.clone().transpose(1, 2))
        self.place = nn.Parameter(torch.zeros(levels + 1, dim))
        self.layers = nn.ModuleList(Layer(dim, heads, dropout) for _ in range(layers))
        self.norm, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.leaf = nn.Linear(dim, dim)
        self.register_buffer("first", torch.arange(levels) * codes, persistent=False)
        causal = torch.full((levels + 1, levels + 1), _OUT).triu(1)
        self.register_buffer("causal", causal[None, None].expand(1, heads, -1, -1).clone(), persistent=False)

    def forward(self, user: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, levels asked, codes] log p at each level, and [rows, dim] the query of the last position.

        Args:
            user: [rows, dim].
            codes: [rows, steps] the codes so far.
        """
        embedded = self.embedded[codes + self.first[: codes.shape[1]]]
        x = torch.cat([user[:, None], embedded], 1)
        steps = x.shape[1]
        x = self.dropout(x + self.place[:steps])
        for layer in self.layers:
            x = layer(x, self.causal[:, :, :steps, :steps])
        x = self.norm(x)
        # A batch of products, one for each level.
        asked = x[:, : len(self.heads)].transpose(0, 1)
        logits = (asked @ self.heads[:steps]).transpose(0, 1)
        return logits.log_softmax(-1), self.leaf(x[:, -1])
