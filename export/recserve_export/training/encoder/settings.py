"""Settings of the training of an encoder."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from recserve_export.training.base import TrainSettings

Share = Annotated[float, Meta(ge=0, lt=1)]
Strength = Annotated[float, Meta(ge=0, le=1e6)]
Count = Annotated[int, Meta(ge=0, le=1_000_000)]


class EncoderSettings(TrainSettings, frozen=True):
    """Settings of `encoder`. What did not help where it was measured, or was not measured, is off: its value is 0.

    Attributes:
        steps: Updates of the weights at most.
        pairs: Pairs of items that are drawn for an update.
        apart: Two items belong together when a user had to do with both, at most so many interactions apart.
        tokens: Longer texts are cut off in training.
        rate: Learning rate.
        warmup: Updates in which the rate rises from 0.
        scale: Factor of the cosines in the softmax.
        layers: Layers that are trained, the last ones; 0 for all, and the embeddings.
        lora: Rank of the adapters that are trained in place of the weights (LoRA); 0 for the weights themselves.
        decay: Weight decay.
        near: Strength of the pull of the weights towards the first ones.
        distil: Strength of the pull of the texts' vectors towards the first ones.
        drop_tokens: Share of the tokens that are hidden in training.
        drop_fields: Share of the text fields that are left out in training; an item keeps one.
        swap_fields: Share of the items of which a random text field stands for the item where it asks, and the others
            where it is asked for.
        views: Strength of the loss by which a text, encoded twice with different dropout, finds its second view among
            those of the batch (SimCSE).
        adversarial: Length of the step against the loss on the token embeddings; 0 for none.
        adversarial_steps: Small steps within that length (FreeLB), each of which takes as long as a plain update; 0 for
            one step from the embeddings themselves (FGM), beside the plain loss.
        hard: Nearest items, by the first vectors, that come into a batch with each drawn item.
        held_out: Share of the items that are held out to judge by, and as many again to stop by.
        every: Updates from one checkpoint and one look at the held out items to the next.
        patience: Looks without a gain after which the training ends; 0 for no such end.
        head_steps: Updates of the `text_head` at most, that it is compared with; 0 for no comparison.
        threads: Threads of the processor; 0 for the usable cores. On cores that others use, one is faster.
        precision: Of the products: bf16 is twice as fast where the processor has it; the weights stay in fp32.
    """

    steps: Annotated[int, Meta(ge=1, le=1_000_000)] = 300
    pairs: Annotated[int, Meta(ge=2, le=4096)] = 128
    apart: Annotated[int, Meta(ge=1, le=100)] = 3
    tokens: Annotated[int, Meta(ge=4, le=8192)] = 64
    rate: Annotated[float, Meta(gt=0, le=1)] = 5e-5
    warmup: Count = 10
    scale: Annotated[float, Meta(gt=0, le=1000)] = 20.0
    layers: Annotated[int, Meta(ge=0, le=1000)] = 0
    lora: Annotated[int, Meta(ge=0, le=1024)] = 0
    decay: Annotated[float, Meta(ge=0, le=1)] = 0.0
    near: Strength = 0.0
    distil: Strength = 1.0
    drop_tokens: Share = 0.0
    drop_fields: Share = 0.0
    swap_fields: Annotated[float, Meta(ge=0, le=1)] = 0.0
    views: Strength = 0.0
    adversarial: Annotated[float, Meta(ge=0, le=100)] = 0.0
    adversarial_steps: Annotated[int, Meta(ge=0, le=20)] = 0
    hard: Annotated[int, Meta(ge=0, le=20)] = 0
    held_out: Annotated[float, Meta(gt=0, le=0.4)] = 0.1
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    patience: Annotated[int, Meta(ge=0, le=1000)] = 0
    head_steps: Count = 600
    threads: Annotated[int, Meta(ge=0, le=1024)] = 1
    precision: Literal["auto", "fp32", "bf16"] = "auto"
