"""Pooling, Dense and Normalize modules and L2 normalisation behind a transformer, as the exported graph has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from recserve_export.encoder.source.folder import EncoderSource, dense_weights
from recserve_export.encoder.source.sentence_modules import DenseLayer, Pooling
from recserve_export.errors import EncoderSourceError


class PooledModel(nn.Module):  # type: ignore[misc]  # torch publishes its types, but they are skipped for speed
    """Token ids and mask -> unit vectors, as the graph computes them."""

    def __init__(self, model: Any, source: EncoderSource) -> None:
        """Put what the source says behind a transformers model.

        Raises:
            EncoderSourceError: The modules do not fit the model or one another, or give less than the `dim` asked for.
        """
        super().__init__()
        self.model = model
        self.config = model.config  # exporters read it
        self.pooling = source.pooling
        self.steps = nn.ModuleList()
        dim = int(model.config.hidden_size)
        for step in source.steps:
            if isinstance(step, DenseLayer):
                self.steps.append(_dense(step, dense_weights(step, source.options), dim))
                dim = step.outputs
            else:
                self.steps.append(_Unit())
        wanted = source.options.dim
        if wanted is not None and not 1 <= wanted <= dim:
            raise EncoderSourceError(
                f"--dim {wanted}: vectors of {source.name} have {dim} elements; ask for 1 to {dim}"
            )
        self.is_cut = wanted is not None and wanted < dim
        self.dim = dim if wanted is None else wanted

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """`vector` [batch, dim] from ids and mask [batch, sequence], int64; the mask is 0 for padding, on the right."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        vectors = pool(hidden, attention_mask, self.pooling)
        for step in self.steps:
            vectors = step(vectors)
        if self.is_cut:
            vectors = vectors[:, : self.dim]
        return {"vector": nn.functional.normalize(vectors, dim=-1)}


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """One vector [batch, hidden] for each text.

    Args:
        hidden: Token vectors [batch, sequence, hidden].
        mask: [batch, sequence], 1 for a token, then 0 for padding.
        pooling: `weighted_mean` weights the n-th token with n (SGPT, https://arxiv.org/abs/2202.08904).
    """
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        last = (mask.sum(1) - 1).clamp(min=0)
        return hidden.gather(1, last[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)
    if pooling == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(hidden.dtype).min).amax(1)
    weights = mask.to(hidden.dtype)
    if pooling == "weighted_mean":
        weights = weights * weights.cumsum(1)
    # A matrix product for each text: a plain sum is added up in another order in another batch. Of two equal rows:
    # onnxruntime adds up a single one in groups that end with the padding.
    sums = torch.bmm(weights.unsqueeze(1).expand(-1, 2, -1), hidden)[:, 0]
    return sums / weights.sum(1, keepdim=True).clamp(min=1e-9)


class _Unit(nn.Module):  # type: ignore[misc]  # see PooledModel
    """L2 normalisation between two modules."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors, dim=-1)


def _dense(layer: DenseLayer, path: Path, inputs: int) -> nn.Module:
    if layer.inputs != inputs:
        raise EncoderSourceError(
            f"{layer.folder} takes vectors of {layer.inputs} elements, what stands before gives {inputs}"
        )
    linear = nn.Linear(layer.inputs, layer.outputs, bias=layer.has_bias)
    try:
        tensors = _read_tensors(path)
        linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()})
    except Exception as error:  # safetensors, pickle and torch raise many kinds
        text = " ".join(str(error).split())
        raise EncoderSourceError(f"{path} does not hold the weights that its config.json names: {text}") from error
    return nn.Sequential(linear, getattr(nn, layer.activation)()).eval()


def _read_tensors(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
