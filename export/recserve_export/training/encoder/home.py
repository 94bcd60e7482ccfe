"""`recserve train encoder`: fine-tunes the encoder on the log of a home, and proves the result before it is kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from recserve_export.encoder.checks.reference import Reference, load_model
from recserve_export.encoder.source.folder import NO_OPTIONS, EncoderSource, read_source
from recserve_export.encoder.source.hub import resolve
from recserve_export.errors import TrainingError
from recserve_export.stages import Stage, silent
from recserve_export.training.base import TrainingLog, check_trainable, training_log
from recserve_export.training.encoder import proof
from recserve_export.training.encoder.fit import Course, Fitted, fit
from recserve_export.training.encoder.report import Data, Difference, System, TrainingReport, write
from recserve_export.training.encoder.settings import EncoderSettings
from recserve_export.training.encoder.split import Split, split
from recserve_export.training.encoder.texts import ItemTexts, item_texts
from recserve_export.training.hard_negatives import nearest_items
from recserve_export.training.pairs import Pairs
from recserve_export.training.publish import Range
from recserve_export.training.run.journal import Journal
from recserve_export.training.run.judge import interval
from recserve_export.training.store_log import StoreLog, check_memory, read_log
from recserve_server_ext.common.arrays import Floats, Ints, Vectors
from recserve_server_ext.common.files import new_folder
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.encoder.manifest import Role
from recserve_server_ext.encoder.versions import active
from recserve_server_ext.interactions.store import InteractionStore

#: Folder of checkpoints beside the trained encoders.
_UNFINISHED: Final = ".unfinished"
_PACKAGES: Final = ("torch", "transformers", "sentence-transformers")
#: Least rank correlation of the similarities of unrelated sentences with those of the first encoder.
DEFAULT_KEEP: Final = 0.9
#: float32 values of a token in a layer, for each unit of its width.
_VALUES: Final = 24
#: The weights, their gradients, two moments, and those of the first encoder.
_COPIES: Final = 5
#: Vectors of a text at a time: of both encoders, and of the items in between.
_VECTORS: Final = 5
#: Bytes of a text for each token, at least in most.
_BYTES_OF_TOKEN: Final = 3


@dataclass(frozen=True, kw_only=True)
class EncoderRequest:
    """What is asked of `train_encoder`.

    Attributes:
        model: Folder or name of a model; `None` takes the default one.
        settings: Settings.
        rules: How interactions become weights.
        span: Interactions that are read.
        budget_s: Seconds after which the updates end; `None` for no bound.
        keep: Least rank correlation of the similarities of unrelated sentences with those of the first encoder.
    """

    model: str | None = None
    settings: EncoderSettings = field(default_factory=EncoderSettings)
    rules: HistoryRules = field(default_factory=HistoryRules)
    span: Range = field(default_factory=Range)
    budget_s: float | None = None
    keep: float = DEFAULT_KEEP


class Tuned(NamedTuple):
    """A trained encoder that was written.

    Attributes:
        folder: Folder with the report.
        model: The sentence-transformers folder in it.
        report: The report.
    """

    folder: Path
    model: Path
    report: TrainingReport


def train_encoder(workspace: Workspace, place: Path | str, request: EncoderRequest, *, stage: Stage = silent) -> Tuned:
    """Fine-tune a model on the log of a home; what was written is served by no one yet.

    A command that was killed goes on from its last checkpoint, unless a user was erased meanwhile.

    Args:
        workspace: The home.
        place: The interaction store.
        request: What to train.
        stage: Shows progress.

    Returns:
        What was written; `report.misses` says what the gate found wrong.

    Raises:
        TrainingError: A setting is wrong, there is nothing to train on, or it does not fit into memory or on the disk.
        ExportError: The model cannot be read.
        ServerError: A store cannot be read.
    """
    if isinstance(place, Path) and not place.exists():
        raise TrainingError(f"there is nothing to train on: no {place}; run: recserve interactions import FILE")
    source = _source(workspace, request.model)
    key = hashlib.sha256(
        msgspec.json.encode(
            [source.sha256(), request.settings, request.span, request.rules.version, request.budget_s], enc_hook=str
        )
    ).hexdigest()
    with InteractionStore(place) as store, Journal.of(workspace.tuned, key) as journal:
        journal.check(store, workspace.tuned)
        read = read_log(store, *request.span, last=journal.number, stage=stage)
        run = _Run(workspace, request, source, read, stage)
        run.check()
        journal.begin(read.number, read.revision)
        done = run.trained(key)
        journal.forget()
        shutil.rmtree(workspace.tuned / _UNFINISHED, ignore_errors=True)
    return done


def settings_of(given: Mapping[str, Any]) -> EncoderSettings:
    """Validated settings; raises TrainingError for wrong ones."""
    try:
        return msgspec.convert(dict(given), EncoderSettings)
    except msgspec.ValidationError as error:
        raise TrainingError(f"settings of the training 'encoder': {error}") from None


def _source(workspace: Workspace, model: str | None) -> EncoderSource:
    """The model to train; without a name the default one, where what is served was made of it."""
    if model is not None:
        found = resolve(model, NO_OPTIONS)
        return read_source(found.folder, name=found.name)
    source = read_source()
    served = active(workspace)
    if served is not None and served.usable().source_sha256 != source.sha256():
        raise TrainingError(
            f"the encoder that is served was made of {served.usable().name}, not of {source.name} as it is by default; "
            "name the model to train with: --model FOLDER"
        )
    return source


@dataclass(frozen=True, eq=False)
class _Run:
    """One training."""

    workspace: Workspace
    request: EncoderRequest
    source: EncoderSource
    read: StoreLog
    stage: Stage

    @cached_property
    def log(self) -> TrainingLog:
        log = training_log(self.read.columns, self.request.rules)
        check_trainable(log)
        return log

    @cached_property
    def texts(self) -> ItemTexts:
        """Texts of the items of the log."""
        return item_texts(self.workspace.store, self.log.items)

    @cached_property
    def rows(self) -> Ints:
        """[items with a text] their places in the log."""
        place_of = {item: place for place, item in enumerate(self.log.items)}
        return np.array([place_of[item] for item in self.texts.ids], np.int64)

    @cached_property
    def split(self) -> Split:
        usable = np.zeros(len(self.log.items), np.bool_)
        usable[self.rows] = True
        return split(self.log, usable, self.request.settings.held_out, self.request.settings.seed)

    @cached_property
    def pairs(self) -> Pairs:
        return Pairs(self.split.train, self.rows, self.request.settings.apart)

    def check(self) -> None:
        """Raise TrainingError where there is nothing to learn, or where it does not fit into memory."""
        settings = self.request.settings
        if len(self.texts.weighted.texts) < 2:
            raise TrainingError(
                f"{len(self.texts.weighted.texts)} different texts among the {len(self.log.items)} items of the log: "
                "an encoder learns nothing from that; run: recserve catalogue import FILE"
            )
        if not self.pairs.count:
            raise TrainingError(
                "the log has no pair of different items that a user had to do with shortly after each other; "
                "an encoder learns from such pairs: record more interactions"
            )
        check_memory(self._bytes(), f"a batch of {settings.pairs} pairs (--set pairs=N for less)")

    def _bytes(self) -> int:
        """Memory that it takes: weights, activations of a batch of different items, vectors of the catalogue."""
        from transformers import AutoConfig

        code = self.source.options.trust_remote_code
        config = AutoConfig.from_pretrained(self.source.model_folder, trust_remote_code=code)
        most = min(self.request.settings.tokens, self.source.max_tokens)
        lengths = [len(text.encode()) / _BYTES_OF_TOKEN + 2 for text in self.texts.weighted.texts]
        # Texts of like length are padded together, in thirds.
        length = float(np.minimum(np.quantile(lengths, (1 / 3, 2 / 3, 1)), most).mean())
        fields = len(self.texts.weighted.text) / len(self.texts.ids)
        drawn = 2 * self.request.settings.pairs * (1 + self.request.settings.hard)
        tokens = min(drawn * fields, len(self.texts.weighted.texts)) * length
        step = 4 * tokens * _VALUES * config.hidden_size * config.num_hidden_layers
        step *= max(1, self.request.settings.adversarial_steps)  # FreeLB holds the graph of each
        vectors = 4 * _VECTORS * len(self.texts.weighted.texts) * config.hidden_size
        return int(_COPIES * sum(path.stat().st_size for path in self.source.weights) + step + vectors)

    def trained(self, key: str) -> Tuned:
        """Train, write and prove."""
        settings = self.request.settings
        first = Reference(self.source)
        encode = _cached(first)
        with self.stage("encode with the first encoder", None):
            before = self._vectors(encode)
        texts = encode(self.texts.weighted.texts, "passage") if settings.distil else None
        model = load_model(self.source)
        with self.stage("train encoder", settings.steps) as advance:
            course = Course(
                folder=self.workspace.tuned / _UNFINISHED,
                key=self._key(key),
                prompt=self.source.prompts.passage,
                nearest=nearest_items(before[self.rows], settings.hard) if settings.hard else None,
                look=lambda: self._look(model),
                budget_s=self.request.budget_s,
                done=advance,
            )
            fitted = fit(model, self.texts, self.pairs, settings, texts, course)
        number = 1 + max((int(path.name) for path in self.workspace.tuned.glob("[0-9]*") if path.is_dir()), default=0)
        name = f"{self.source.name}-tuned-{number}"
        target = self.workspace.tuned / f"{number:04d}"
        with new_folder(target) as aside:
            with self.stage("write the encoder", None):
                model.save_pretrained(str(aside / name), model_name=name, create_model_card=False)
            report = self._proof(encode, before, aside / name, fitted)
            write(aside, report)
        return Tuned(target, target / name, report)

    def _key(self, key: str) -> str:
        """What a checkpoint must have been trained on to be gone on from."""
        digest = hashlib.sha256(f"{key} {[version(package) for package in _PACKAGES]}".encode())
        for array in (self.split.train.user, self.split.train.item, self.split.train.time_us, self.texts.weighted.text):
            digest.update(array.tobytes())
        digest.update(msgspec.json.encode(self.texts.weighted.texts))
        return digest.hexdigest()

    def _vectors(self, encode: proof.Encode) -> Vectors:
        return proof.item_vectors(self.texts, self.rows, np.ones(len(self.log.items), np.bool_), encode)

    def _look(self, model: Any) -> float:
        """NDCG@10 of the model as it is, of the items to stop by."""

        def encode(texts: list[str], _: Role) -> Vectors:
            found: Vectors = model.encode(
                texts, prompt=self.source.prompts.passage, normalize_embeddings=True, show_progress_bar=False
            )
            return found.astype(np.float32)

        vectors = proof.item_vectors(self.texts, self.rows, self.split.look.items, encode)
        return float(self.split.look.ndcg(vectors).mean())

    def _proof(self, first: proof.Encode, before: Vectors, folder: Path, fitted: Fitted) -> TrainingReport:
        """Compare with the first encoder."""
        settings, asked = self.request.settings, self.split
        with self.stage("prove the encoder", None):
            encode = _cached(Reference(read_source(folder)))
            after = self._vectors(encode)
            old, new = proof.answers(asked, before), proof.answers(asked, after)
            systems = {"first encoder": old, "trained encoder": new}
            for name, vectors in (("first", before), ("trained", after)):
                systems[f"{name}, fusion"] = proof.with_ease(asked, vectors)
                if settings.head_steps:
                    head = proof.with_head(asked, vectors, settings.head_steps, settings.seed)
                    systems[f"{name}, text_head"] = head
            found = {name: {what: float(of.mean()) for what, of in one.items()} for name, one in systems.items()}
            found |= proof.controls(asked, before)
            differences = {what: _difference(new[what] - old[what]) for what in old}
            keep = proof.kept(first, encode)
            searched = proof.search(self.texts, first), proof.search(self.texts, encode)
        return TrainingReport(
            model=self.source.name,
            source_sha256=self.source.sha256(),
            data=self._data(),
            settings=settings,
            course=fitted,
            versions={package: version(package) for package in _PACKAGES},
            systems=[System(name=name, ndcg=ndcg) for name, ndcg in found.items()],
            differences=differences,
            search=None if searched[0] is None or searched[1] is None else (searched[0], searched[1]),
            keep=keep,
            least_keep=self.request.keep,
            misses=_misses(keep, self.request.keep, differences["cold items"]),
        )

    def _data(self) -> Data:
        read, span = self.read, self.request.span
        return Data(
            number=read.number,
            revision=read.revision,
            interactions=len(self.log.item),
            trained=len(self.split.train.item),
            pairs=self.pairs.count,
            items=len(self.texts.ids),
            held_out=int(self.split.cold.sum()),
            users={name: question.users for name, question in self.split.questions.items()},
            since=None if span.since is None else span.since.isoformat(),
            until=None if span.until is None else span.until.isoformat(),
            rules=self.request.rules.version,
        )


def _difference(of_users: Floats) -> Difference:
    return Difference(float(of_users.mean()), *interval(of_users))


def _misses(keep: float, least: float, cold: Difference) -> list[str]:
    found = []
    if not keep >= least:  # also for NaN
        found.append(
            f"on unrelated sentences it agrees with the first encoder by {keep:.4f}, below --keep {least:g}: "
            "train less (--set steps=N, --set rate=X) or hold on to the first vectors (--set distil=1)"
        )
    if cold.mean <= 0:
        found.append(f"it is not better than the first encoder on items that it was not trained on ({cold.mean:+.4f})")
    return found


def _cached(reference: Reference) -> proof.Encode:
    """Encodes each text in each role once."""
    known: dict[tuple[str, Role], Vectors] = {}

    def encode(texts: list[str], role: Role) -> Vectors:
        new = [text for text in dict.fromkeys(texts) if (text, role) not in known]
        if new:
            known.update(zip([(text, role) for text in new], reference.vectors(new, role=role), strict=True))
        return np.stack([known[text, role] for text in texts])

    return encode
