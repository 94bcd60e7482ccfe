"""Trains an encoder with the trainer of sentence-transformers."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.evaluation import SentenceEvaluator
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback

from recserve_export.errors import TrainingError, first_line
from recserve_export.one_thread import threads
from recserve_export.stages import quiet
from recserve_export.training.encoder.batches import NUMBER, Batches
from recserve_export.training.encoder.checkpoints import Marker, newest_whole
from recserve_export.training.encoder.objective import Objective
from recserve_export.training.encoder.settings import EncoderSettings
from recserve_export.training.encoder.texts import ItemTexts
from recserve_export.training.pairs import Pairs
from recserve_server_ext.common import cpu
from recserve_server_ext.common.arrays import Ints, Vectors

#: Weights in a checkpoint.
_WEIGHTS: Final = "trained.safetensors"
#: What a look finds, as transformers names it.
_LOOK: Final = "eval_look"
#: Flags of processors that multiply in bf16.
_BF16: Final = frozenset({"avx512_bf16", "amx_bf16"})


class Look(msgspec.Struct, frozen=True):
    """A look at the items that are held out to stop by.

    Attributes:
        step: Updates so far.
        ndcg: NDCG@10 among these items.
        loss: Mean loss since the look before; `None` in the first.
    """

    step: int
    ndcg: float
    loss: float | None


class Fitted(msgspec.Struct, frozen=True):
    """What became of a training.

    Attributes:
        steps: Updates.
        best: Updates after which the look was best; the model is that one.
        looks: Looks.
        seconds: Duration, that of ended trainings that it went on from included.
    """

    steps: int
    best: int
    looks: list[Look]
    seconds: float


class Course(NamedTuple):
    """What surrounds a training.

    Attributes:
        folder: Folder of its checkpoints.
        key: What is trained, on what: only checkpoints with the same key are gone on from.
        look: NDCG@10 of the model as it is.
        prompt: Put before texts.
        nearest: [items, k] hard negatives of each item; `None` without.
        budget_s: Seconds after which it ends; `None` for no bound.
        done: Called with 1 after each update.
    """

    folder: Path
    key: str
    look: Callable[[], float]
    prompt: str = ""
    nearest: Ints | None = None
    budget_s: float | None = None
    done: Callable[[int], None] = lambda _: None


def fit(
    model: Any, texts: ItemTexts, pairs: Pairs, settings: EncoderSettings, first: Vectors | None, course: Course
) -> Fitted:
    """Train a model in place.

    Args:
        model: A sentence-transformers model.
        texts: Texts of the items.
        pairs: Pairs of these items; at least one.
        settings: Settings.
        first: [texts, dim] vectors of the texts before the training, where a setting needs them.
        course: What surrounds it.

    Raises:
        TrainingError: A checkpoint cannot be written.
    """
    torch.manual_seed(settings.seed)
    adapters = _choose_weights(model, settings)
    checkpoint, before_s = newest_whole(course.folder, course.key)
    start = time.monotonic()

    def seconds() -> float:
        return before_s + time.monotonic() - start

    trainer = _Trainer(
        model=model,
        args=_arguments(course.folder, settings),
        train_dataset=Dataset.from_dict({NUMBER: range(settings.steps)}),
        loss=Objective(model, model.transformers_model.get_input_embeddings(), settings, first),
        evaluator=_Looker(course.look),
        data_collator=Batches(
            texts, pairs, settings, _preprocess(model, settings.tokens, course.prompt), course.nearest
        ),
        callbacks=[
            Marker(course.key, seconds),
            _Bounds(course.done, course.budget_s, seconds),
            *([EarlyStoppingCallback(settings.patience)] if settings.patience else []),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    try:
        with quiet(), threads(settings.threads or cpu.usable_cores()):
            begin = Look(0, course.look(), None)
            trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error):
            raise
        raise TrainingError(
            f"a checkpoint cannot be written to {course.folder}: {first_line(error)}; the same command goes on from "
            "the one before"
        ) from error
    if adapters is not None:
        adapters.merge_and_unload()
    model.requires_grad_(True).eval()
    looks = [begin, *_looks(trainer.state.log_history)]
    best = max(looks[1:], key=lambda look: (look.ndcg, -look.step))
    return Fitted(trainer.state.global_step, best.step, looks, seconds())


class _Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """The trainer, with checkpoints of the trained weights alone and without a model card, which asks the hub."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        trained = {name: one.detach().contiguous() for name, one in self.model.named_parameters() if one.requires_grad}
        save_file(trained, folder / _WEIGHTS)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        self.model.load_state_dict(load_file(Path(checkpoint_path) / _WEIGHTS), strict=False)


class _Looker(SentenceEvaluator):  # type: ignore[misc]
    """Looks at the held out items."""

    def __init__(self, look: Callable[[], float]) -> None:
        super().__init__()
        self._look = look

    def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
        return {"look": self._look()}


class _Bounds(TrainerCallback):  # type: ignore[misc]
    """Shows progress, and ends the training when its time is over."""

    def __init__(self, done: Callable[[int], None], budget_s: float | None, seconds: Callable[[], float]) -> None:
        self._done, self._budget_s, self._seconds = done, budget_s, seconds

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show what an ended training had done."""
        del args, control
        self._done(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Show the update, and end the training."""
        del args, state
        self._done(1)
        if self._budget_s is not None and self._seconds() >= self._budget_s:
            control.should_training_stop = control.should_evaluate = control.should_save = True


def _arguments(folder: Path, settings: EncoderSettings) -> SentenceTransformerTrainingArguments:
    has_gpu = torch.cuda.is_available()
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and (has_gpu or cpu.flags() & _BF16))
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=settings.steps,
        per_device_train_batch_size=1,  # a number of `Batches`, which is a whole batch
        learning_rate=settings.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=settings.warmup,
        weight_decay=settings.decay,
        seed=settings.seed,
        bf16=bool(bf16),
        use_cpu=not has_gpu,
        eval_strategy="steps",
        eval_steps=settings.every,
        save_strategy="steps",
        save_steps=settings.every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model=_LOOK,
        greater_is_better=True,
        logging_steps=settings.every,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )


def _choose_weights(model: Any, settings: EncoderSettings) -> Any:
    """Put adapters into the model, which are returned, or leave out of the training all but its last layers."""
    if settings.lora:
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(r=settings.lora, lora_alpha=2 * settings.lora, target_modules="all-linear")
        return get_peft_model(model.transformers_model, config)
    if settings.layers:
        stacks = [one for one in model.transformers_model.modules() if isinstance(one, nn.ModuleList)]
        layers: Any = max(stacks, key=len, default=[])
        if settings.layers > len(layers):
            raise TrainingError(f"layers={settings.layers}: the model has {len(layers)} layers")
        model.requires_grad_(False)
        for layer in list(layers)[-settings.layers :]:
            layer.requires_grad_(True)
    return None


def _preprocess(model: Any, tokens: int, prompt: str) -> Callable[[list[str]], Any]:
    """Tokenises with at most so many tokens, and leaves the length of the model as it is."""
    own = model.max_seq_length
    most = tokens if own is None else min(own, tokens)

    def preprocess(texts: list[str]) -> Any:
        model.max_seq_length = most
        try:
            return model.preprocess([prompt + text for text in texts])
        finally:
            model.max_seq_length = own

    return preprocess


def _looks(history: list[dict[str, Any]]) -> list[Look]:
    """The looks of a log of transformers."""
    losses = {entry["step"]: entry["loss"] for entry in history if "loss" in entry}
    found = {entry["step"]: entry[_LOOK] for entry in history if _LOOK in entry}
    return [Look(step, ndcg, losses.get(step)) for step, ndcg in found.items() if math.isfinite(ndcg)]
