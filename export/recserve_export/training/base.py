"""The interface of trainings: from a log and the text vectors of items to what a strategy needs of each item."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from scipy import sparse

from recserve_export.errors import TrainingError
from recserve_export.training.ranking.answers import Answers
from recserve_server_ext.common.arrays import Floats, Ints, Vectors
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.weights import weigh
from recserve_server_ext.index.matrix import ItemMatrix
from recserve_server_ext.interactions.columns import InteractionColumns
from recserve_server_ext.networks.network import Network

#: Interactions of a user that are trained on, the newest ones: nobody decides alone what is learned.
_MOST_OF_USER: Final = 20_000


class TrainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a training.

    Attributes:
        seed: Of everything random.
    """

    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


@dataclass(frozen=True, eq=False)
class TrainingLog:
    """Positive interactions with items, sorted by user and time, oldest first.

    Attributes:
        user: [interactions] number of the user, ascending.
        item: [interactions] position in `items`.
        time_us: [interactions] microseconds since 1970.
        weight: [interactions] above 0: base weight of the type, features, and damping of repeats.
        users: Number of users.
        items: Item ids; some may have no interaction.
        columns: All interactions that it was made from, negative ones too; their subjects begin with `items`.
        rules: How they became weights.
        answers: What users were shown and clicked; `None` where that is not known.
    """

    user: Ints
    item: Ints
    time_us: Ints
    weight: Floats
    users: int
    items: list[str]
    columns: InteractionColumns
    rules: HistoryRules
    answers: Answers | None = None

    @cached_property
    def seen(self) -> sparse.csr_array:
        """[users, items] float32: 1 where a user had to do with an item."""
        pairs = np.unique(self.user * len(self.items) + self.item)
        user, item = np.divmod(pairs, len(self.items))
        return sparse.csr_array((np.ones(len(pairs), np.float32), (user, item)), (self.users, len(self.items)))

    @cached_property
    def weighted(self) -> sparse.csr_array:
        """[users, items] float32: sum of the weights of each pair."""
        matrix = sparse.coo_array((self.weight.astype(np.float32), (self.user, self.item)), self.seen.shape).tocsr()
        matrix.sum_duplicates()
        return matrix

    @cached_property
    def counts(self) -> Ints:
        """[items] number of users of each item."""
        return np.bincount(self.seen.indices, minlength=len(self.items))


def training_log(
    columns: InteractionColumns, rules: HistoryRules | None = None, answers: Answers | None = None
) -> TrainingLog:
    """What can be learned from interactions: cleaned by the rules of histories, of types with a positive weight.

    Neither age nor the value of a rating counts: what somebody rated low was chosen, too. Of a user the newest 20,000
    count.

    Raises:
        ConfigError: The rules need fitted statistics and have none.
    """
    rules = rules or HistoryRules()
    ageless = msgspec.structs.replace(
        rules,
        half_life_s=None,
        half_life_interactions=None,
        half_life_sessions=None,
        rating=msgspec.structs.replace(rules.rating, types=()),
    )
    weighted = weigh(columns, ageless)
    positive = (weighted.weight > 0) & columns.is_item[columns.subject[weighted.index]]
    index, weight = weighted.index[positive], weighted.weight[positive]
    user, time_us = columns.user[index], columns.time_us[index]
    order = np.lexsort([time_us, user])
    lengths = np.bincount(user, minlength=columns.users)
    order = order[np.repeat(np.cumsum(lengths), lengths) - np.arange(len(order)) <= _MOST_OF_USER]
    items = int(np.count_nonzero(columns.is_item))  # item ids come first among the subjects
    return TrainingLog(
        user[order],
        columns.subject[index][order],
        time_us[order],
        weight[order],
        columns.users,
        columns.subjects[:items],
        columns,
        rules,
        answers,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Learned:
    """What a training found: the vectors of a space, a sparse item-to-item matrix, or a model.

    Attributes:
        items: [vectors] position in the log's items of each vector, ascending; of all items for a matrix.
        vectors: [vectors, dim] float32 that are searched; `None` without.
        inputs: [vectors, dim] float32 that items have as behaviours; `None` where they are the same.
        text_map: See `recserve_server_ext.index.space.SpaceContent`.
        parameters: Numbers that the strategy needs, by name.
        network: Makes user vectors in the space; `None` where arithmetic does.
        matrix: Over the log's items; `None` without.
        model: Arrays of a model by name, which name `items` by their position there; `None` without.
        figures: What the training says of itself, by name.
        found: Settings that were searched, by name; another part of the same log can be trained with them.
        state: What a training of a longer part of the same log can go on from; `None` where it cannot. Never published.
    """

    items: Ints
    vectors: Vectors | None = None
    inputs: Vectors | None = None
    text_map: Vectors | None = None
    parameters: dict[str, float] = field(default_factory=dict)
    network: Network | None = None
    matrix: ItemMatrix | None = None
    model: Mapping[str, NDArray[Any]] | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    found: Mapping[str, Any] = field(default_factory=dict)
    state: Any = None


@dataclass(frozen=True)
class Work:
    """What surrounds a long training.

    Attributes:
        done: Called with 1 after each step that is worth showing.
        folder: Folder for what a training that was ended goes on from; `None` keeps nothing.
        before: `Learned.state` of an earlier part of the same log, all of which is in this one; `None` to begin anew.
    """

    done: Callable[[int], None] = lambda _: None
    folder: Path | None = None
    before: Any = None


class Trainer(ABC):
    """A training; one instance serves all.

    Class attributes:
        Settings: Type of its settings.
        is_for_all: Whether `recserve train all` includes it.
        is_slow: Whether it takes minutes where others take seconds; a quick evaluation leaves it out.
        goes_on: Whether it can go on from an earlier part of a log; see `Work.before`.
        needs_text: Whether it cannot train without text vectors; `recserve train all` leaves it out then.
        grid: Settings that an evaluation chooses from, on validation data.
    """

    Settings: ClassVar[type[TrainSettings]] = TrainSettings
    is_for_all: ClassVar[bool] = True
    is_slow: ClassVar[bool] = False
    goes_on: ClassVar[bool] = False
    needs_text: ClassVar[bool] = False
    grid: ClassVar[Sequence[Mapping[str, Any]]] = ({},)

    @abstractmethod
    def train(self, log: TrainingLog, text: Vectors | None, settings: Any) -> Learned:
        """Learn from a log.

        Args:
            log: At least one interaction.
            text: [items, dim] text vectors of the log's items; zeros where an item has none, `None` where none has.
            settings: Of the type `Settings`.
        """

    def work(self, log: TrainingLog, text: Vectors | None, settings: Any, work: Work) -> Learned:
        """Learn from a log, showing progress and going on where a training was ended; by default it only trains."""
        return self.train(log, text, settings)

    @abstractmethod
    def needed_bytes(self, log: TrainingLog, settings: Any) -> int:
        """Memory that the training takes at most, besides the log."""


def text_map(text: Vectors | None, items: Ints, learned: Vectors, ridge: float = 1.0) -> Vectors | None:
    """[text dim + 1, dim] ridge regression from text vectors to what was learned of the same items.

    Args:
        text: [all items, text dim].
        items: [vectors] items that something was learned of.
        learned: [vectors, dim].
        ridge: Strength of the regularisation.
    """
    if text is None:
        return None
    known = text[items].any(axis=1)
    x = text[items][known].astype(np.float64)
    if not len(x):
        return None
    y = learned[known].astype(np.float64)
    centre, mean = x.mean(axis=0), y.mean(axis=0)
    x -= centre
    slope = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - mean))
    return np.vstack([slope, mean - centre @ slope]).astype(np.float32)


def check_trainable(log: TrainingLog) -> None:
    """Raise TrainingError where nothing can be learned."""
    if not len(log.item):
        raise TrainingError(
            "there is nothing to train on: the log has no interaction with an item that counts; "
            "import some with: recserve interactions import FILE"
        )
