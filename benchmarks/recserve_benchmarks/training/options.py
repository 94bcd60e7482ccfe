"""Measures options of `text_head` and of the encoder's training, alone and together, on validation data of a home.

The parts of a log that `recserve train encoder` judges by are left out: its cold items, its new users, and the last
interaction of each user. What is left is split again in the same way, differently for each seed, and the options are
judged by that: which items are cold decides more than the seed of a training.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from recserve_benchmarks.harness.run import Show
from recserve_export.encoder.checks.reference import Reference, load_model
from recserve_export.encoder.source.folder import EncoderSource, read_source
from recserve_export.training.base import TrainingLog, check_trainable, training_log
from recserve_export.training.encoder import proof
from recserve_export.training.encoder.fit import Course, fit
from recserve_export.training.encoder.settings import EncoderSettings
from recserve_export.training.encoder.split import Split, split
from recserve_export.training.encoder.texts import ItemTexts, item_texts
from recserve_export.training.hard_negatives import nearest_items
from recserve_export.training.pairs import Pairs
from recserve_export.training.registry import train
from recserve_export.training.store_log import read_log
from recserve_server_ext.common.arrays import Ints, Mask, Vectors
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.encoder.manifest import Role
from recserve_server_ext.history.features import select
from recserve_server_ext.interactions.store import InteractionStore

Options = Mapping[str, Any]
#: Options of `text_head`, beside its defaults.
HEADS: Final[Sequence[Options]] = (
    {},
    {"anywhere": 0.0},
    {"anywhere": 1.0},
    {"noise": 0.0},
    {"id_dropout": 1.0},
    {"keep": 0.0},
)
#: Options of the encoder's training, beside its defaults without `distil`.
ENCODERS: Final[Sequence[Options]] = (
    {},
    {"hard": 1, "pairs": 64},
    {"adversarial": 0.1},
    {"adversarial": 0.1, "adversarial_steps": 2},
    {"drop_tokens": 0.1},
    {"drop_fields": 0.1},
    {"swap_fields": 0.3},
    {"views": 0.1},
    {"near": 0.1},
    {"decay": 0.1},
    {"distil": 1.0},
    {"lora": 16, "rate": 5e-4},
    {"layers": 2},
    {
        "distil": 1.0, "decay": 0.1, "near": 0.1, "hard": 1, "pairs": 64, "drop_tokens": 0.1, "drop_fields": 0.1,
        "swap_fields": 0.3, "views": 0.1, "adversarial": 0.1, "adversarial_steps": 2,
    },
)  # fmt: skip
#: Questions of the table.
ASKED: Final = ("cold items", "last item")
_HELD_OUT: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class OptionsRun:
    """What is measured.

    Attributes:
        workspace: Home with a catalogue and a log.
        seeds: Number of splits, each with a seed of its own, which is that of the trainings, too.
        head_steps: Updates of the head.
        steps: Updates of the encoder.
        heads: Options of `text_head`.
        encoders: Options of the encoder's training.
        show: Shows progress.
        keep: Called with the results so far after each variant: all of them take an hour.
    """

    workspace: Workspace
    seeds: int
    head_steps: int
    steps: int
    heads: Sequence[Options] = HEADS
    encoders: Sequence[Options] = ENCODERS
    show: Show
    keep: Callable[[dict[str, Any]], None]

    @cached_property
    def asked(self) -> list[Split]:
        """[seeds] splits of what is left of the log."""
        with InteractionStore(self.workspace.interactions) as store:
            columns = read_log(store).columns
        log = training_log(columns)
        check_trainable(log)
        judged = split(log, self._usable(log), _HELD_OUT, 0)
        left = np.zeros((columns.users, len(log.items)), np.bool_)
        left[judged.train.user, judged.train.item] = True
        rest = training_log(select(columns, np.flatnonzero(left[columns.user, columns.subject])))
        usable = self._usable(rest)
        return [split(rest, usable, _HELD_OUT, 1 + seed) for seed in range(self.seeds)]

    @property
    def _items(self) -> list[str]:
        """Items of what is left of the log, the same in each split."""
        return self.asked[0].train.items

    def _usable(self, log: TrainingLog) -> Mask:
        there = set(item_texts(self.workspace.store, log.items).ids)
        return np.array([item in there for item in log.items], np.bool_)

    @cached_property
    def source(self) -> EncoderSource:
        """The model that is trained."""
        return read_source()

    @cached_property
    def texts(self) -> ItemTexts:
        """Texts of the items."""
        return item_texts(self.workspace.store, self._items)

    @cached_property
    def rows(self) -> Ints:
        """[items with a text] their places in the log."""
        place_of = {item: place for place, item in enumerate(self._items)}
        return np.array([place_of[item] for item in self.texts.ids], np.int64)

    @cached_property
    def first(self) -> Reference:
        """The model before the training."""
        return Reference(self.source)

    @cached_property
    def encoded(self) -> Vectors:
        """[texts, dim] vectors before the training."""
        return self.first.vectors(self.texts.weighted.texts, role="passage")

    def measure(self) -> dict[str, Any]:
        """NDCG@10 by question, agreement and CPU seconds of each variant, with lists over the seeds."""
        place = {text: n for n, text in enumerate(self.texts.weighted.texts)}
        before = self._item_vectors(lambda some, _: self.encoded[[place[text] for text in some]])
        controls = [
            {**proof.controls(asked, before), "untrained": self._figures(asked, before)} for asked in self.asked
        ]
        results: dict[str, Any] = {
            "users": {name: [asked.questions[name].users for asked in self.asked] for name in ASKED},
            "controls": {name: {what: [one[name][what] for one in controls] for what in ASKED} for name in controls[0]},
            "text_head": [],
            "encoder": [],
        }
        for kind, variants, measured in (
            ("text_head", self.heads, self._head),
            ("encoder", self.encoders, self._encoder),
        ):
            for given in self._each(kind, variants):
                figures = [measured(asked, before, given, seed) for seed, asked in enumerate(self.asked)]
                results[kind].append(_row(given, figures))
                self.keep(results)
        return results

    def _each(self, what: str, variants: Sequence[Options]) -> Iterator[Options]:
        for number, given in enumerate(variants):
            self.show(f"{what} {given}", number, len(variants))
            yield given

    def _item_vectors(self, encode: proof.Encode) -> Vectors:
        return proof.item_vectors(self.texts, self.rows, np.ones(len(self._items), np.bool_), encode)

    def _figures(self, asked: Split, vectors: Vectors) -> dict[str, float]:
        return {name: float(asked.questions[name].ndcg(vectors).mean()) for name in ASKED}

    def _head(self, asked: Split, before: Vectors, given: Options, seed: int) -> dict[str, float]:
        """Figures of a head."""
        start = time.process_time()
        learned = train("text_head", asked.train, before, {"seed": seed, "steps": self.head_steps, **given})
        seconds = time.process_time() - start
        assert learned.vectors is not None
        vectors = np.zeros_like(before)
        vectors[learned.items] = learned.vectors
        return {**self._figures(asked, vectors), "cpu_s": seconds}

    def _encoder(self, asked: Split, before: Vectors, given: Options, seed: int) -> dict[str, float]:
        """Figures of a trained encoder."""
        default = {"distil": 0.0, "steps": self.steps, "every": self.steps, "seed": seed}
        settings = msgspec.convert({**default, **given}, EncoderSettings)
        model, prompt = load_model(self.source), self.source.prompts.passage
        start = time.process_time()
        nearest = nearest_items(before[self.rows], settings.hard) if settings.hard else None
        with tempfile.TemporaryDirectory() as folder:
            course = Course(Path(folder), "options", lambda: 0.0, prompt, nearest)
            fit(model, self.texts, Pairs(asked.train, self.rows, settings.apart), settings, self.encoded, course)
        seconds = time.process_time() - start

        def encode(some: list[str], _: Role) -> Vectors:
            found: Vectors = model.encode(some, prompt=prompt, normalize_embeddings=True, show_progress_bar=False)
            return found.astype(np.float32)

        kept = proof.kept(lambda some, role: self.first.vectors(some, role=role), encode)
        figures = {**self._figures(asked, self._item_vectors(encode)), "agreement": kept, "cpu_s": seconds}
        searched = proof.search(self.texts, encode)
        return figures if searched is None else {**figures, "search": searched}


def _row(given: Options, of_seeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The figures of a variant, a list over the seeds for each."""
    return {"settings": dict(given), "figures": {name: [one[name] for one in of_seeds] for name in of_seeds[0]}}
