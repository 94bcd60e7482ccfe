"""What is held out of the training of an encoder, and the questions that are asked with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from scipy import sparse

from recserve_export.errors import TrainingError
from recserve_export.training.base import TrainingLog
from recserve_export.training.ndcg import ndcg
from recserve_server_ext.common.arrays import Floats, Ints, Mask, Vectors
from recserve_server_ext.config.history import HistoryRules
from recserve_server_ext.history.features import select
from recserve_server_ext.history.user_histories import WINDOW
from recserve_server_ext.history.weights import weigh

#: Length of the lists that are judged.
K: Final = 10
#: Users that a question is asked of at most.
_MOST_USERS: Final = 2000
#: Items that a look at the training is about at most, and others in the histories of its users.
_MOST_LOOKED: Final = 2000
_MOST_ITEMS: Final = 20_000
#: Scores computed at a time.
_BATCH: Final = 256
_OUT: Final = np.float32(-1e9)


class ItemSpace(NamedTuple):
    """A space over the items of a log.

    Attributes:
        vectors: [items, dim] what is searched; zeros where an item has none.
        inputs: [items, dim] what items have as behaviours.
    """

    vectors: Vectors
    inputs: Vectors


@dataclass(frozen=True, eq=False)
class Question:
    """Users with a history, and what they turned to.

    Attributes:
        histories: [users, items] sparse float32 weights, by the rules of histories.
        targets: [users, items] sparse bool.
        candidates: [items] whether an item may be recommended.
        known: [users, items] sparse bool: items that are not recommended, since the user knows them.
    """

    histories: Any
    targets: Any
    candidates: Mask
    known: Any

    @property
    def users(self) -> int:
        """Number of users."""
        return int(self.targets.shape[0])

    @property
    def items(self) -> Mask:
        """[items] whether the question has to do with an item."""
        found = self.candidates.copy()
        found[self.histories.indices] = True
        return found

    def within(self, items: int) -> Question:
        """The question to as many of the users, the first ones, as have at most so many items in their histories."""
        _, first = np.unique(self.histories.indices, return_index=True)
        if len(first) <= items:
            return self
        users = slice(int(np.searchsorted(self.histories.indptr, np.sort(first)[items], side="right")) - 1)
        return Question(self.histories[users], self.targets[users], self.candidates, self.known[users])

    def ndcg(self, vectors: Vectors) -> Floats:
        """[users] NDCG@10 of the strategy `text`: cos(u, v), u = sum_j w_j v_j over the history.

        Args:
            vectors: [items, dim] item vectors; an item of zeros is never recommended.
        """

        def scores(users: slice) -> Vectors:
            sums = self.histories[users] @ vectors
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            found: Vectors = (sums / np.maximum(lengths, np.float32(1e-30))) @ vectors.T
            return found

        return self._ndcg(scores, vectors.any(axis=1))

    def ndcg_of_fusion(self, spaces: Sequence[ItemSpace]) -> Floats:
        """[users] NDCG@10 of a `fusion` of spaces with equal weights.

        score(i) = sum over the spaces of u . v_i / s, u = sum_j w_j x_j over the history, s the standard deviation of
        u . v over the items.

        Args:
            spaces: An item of zeros in all of them is never recommended.
        """
        able = [space.vectors.any(axis=1) for space in spaces]

        def scores(users: slice) -> Vectors:
            found = np.zeros((len(range(*users.indices(self.users))), len(self.candidates)), np.float32)
            for space, has_vector in zip(spaces, able, strict=True):
                products = (self.histories[users] @ space.inputs) @ space.vectors.T
                found += products / np.maximum(products[:, has_vector].std(axis=1, keepdims=True), np.float32(1e-30))
            return found

        return self._ndcg(scores, np.any(able, axis=0))

    def ndcg_for_everybody(self, scores: Floats) -> Floats:
        """[users] NDCG@10 of the same list for everybody; [items] scores."""
        line = scores.astype(np.float32)[None]
        return self._ndcg(
            lambda users: np.repeat(line, len(range(*users.indices(self.users))), axis=0), self.candidates
        )

    def _ndcg(self, scores: Any, able: Mask) -> Floats:
        parts = []
        for start in range(0, self.users, _BATCH):
            users = slice(start, min(start + _BATCH, self.users))
            found = np.where(self.candidates & able, scores(users), _OUT)
            found[self.known[users].toarray()] = _OUT
            best = np.argsort(-found, axis=1, kind="stable")[:, :K]
            targets = self.targets[users].toarray()
            hits = np.take_along_axis(targets, best, axis=1) & (np.take_along_axis(found, best, axis=1) > _OUT)
            parts.append(ndcg(hits, targets.sum(axis=1)))
        return np.concatenate(parts) if parts else np.empty(0)


class Split(NamedTuple):
    """A log with parts held out.

    Attributes:
        train: What is trained on: no held out item, no interaction of a held out user, of others not the last one.
        look: Asked during the training: of held out items, the user's among all of these.
        questions: Asked afterwards, by name: of held out items, among these and among all items; of the last item of a
            user, of users who were trained on and of others. With `ratings signed` what a user rated low pushes away,
            as the strategy `text` has it by the rules of histories.
        cold: [items] items that are held out to judge by.
    """

    train: TrainingLog
    look: Question
    questions: dict[str, Question]
    cold: Mask


def split(log: TrainingLog, usable: Mask, share: float, seed: int) -> Split:
    """Hold out items, users, and the last interaction of each user.

    Args:
        log: The log.
        usable: [items] items that have a text.
        share: Share of the items that are held out to judge by, as many again for looks, and share of the users.
        seed: Of the choice.

    Raises:
        TrainingError: There are too few items or users.
    """
    random = np.random.default_rng([seed, 1])
    # In the order of their ids: that of the log follows from the pseudonyms of users, which differ between homes.
    seen = random.permutation(
        np.array(sorted(np.flatnonzero((log.counts > 0) & usable), key=log.items.__getitem__), np.int64)
    )
    part = round(share * len(seen))
    users = random.permutation(log.users)
    new = np.isin(log.user, users[: round(share * log.users)])
    is_last = np.append(log.user[1:] != log.user[:-1], True)
    cold, looked = (
        np.isin(np.arange(len(log.items)), some) for some in (seen[:part], seen[part:][: min(part, _MOST_LOOKED)])
    )
    held = cold | looked
    trained = ~new & ~is_last & ~held[log.item] & usable[log.item]
    if part < 1 or not trained.any():
        raise TrainingError(
            f"nothing is left to train on: of {len(seen)} items with a text and interactions of {log.users} users, "
            f"{share:.0%} are held out to judge by; record more interactions, or try another --set held_out"
        )
    # As in the training, a rating counts as much as another one, whatever its value.
    unsigned = msgspec.structs.replace(log.rules, rating=msgspec.structs.replace(log.rules.rating, types=()))

    def question(asked: Mask, candidates: Mask, rules: HistoryRules = unsigned) -> Question:
        return _question(log, rules, asked, candidates, ~held)

    known_last = is_last & ~held[log.item]
    asked = {
        "cold items": question(cold[log.item], cold),
        "cold items, ratings signed": question(cold[log.item], cold, log.rules),
        "cold items among all": question(cold[log.item], usable),
        "last item": question(known_last & ~new, usable),
        "last item of new users": question(known_last & new, usable),
    }
    return Split(_selected(log, trained), question(looked[log.item], looked).within(_MOST_ITEMS), asked, cold)


def _selected(log: TrainingLog, chosen: Mask) -> TrainingLog:
    """The log without its other positive interactions; its columns stay whole."""
    return TrainingLog(
        log.user[chosen], log.item[chosen], log.time_us[chosen], log.weight[chosen], log.users, log.items, log.columns,
        log.rules,
    )  # fmt: skip


def _question(log: TrainingLog, rules: HistoryRules, asked: Mask, candidates: Mask, behaviours: Mask) -> Question:
    """What users turned to in some of the interactions; of the others, those with some items are the histories."""
    targets = _sparse(log, log.user[asked], log.item[asked], np.ones(int(asked.sum()), np.float32))
    columns = log.columns
    keys = columns.user * len(log.items) + columns.subject
    is_target = np.isin(keys, log.user[asked] * len(log.items) + log.item[asked])
    places = np.flatnonzero(~is_target & behaviours[columns.subject])
    weighted = weigh(select(columns, places), rules)
    index = places[weighted.index]
    newest = weighted.newer < WINDOW
    histories = _sparse(log, columns.user[index][newest], columns.subject[index][newest], weighted.weight[newest])
    known = _sparse(log, columns.user[places], columns.subject[places], np.ones(len(places)))
    users = np.flatnonzero((np.diff(targets.indptr) > 0) & (np.diff(histories.indptr) > 0))
    if len(users) > _MOST_USERS:
        users = np.sort(np.random.default_rng(0).choice(users, _MOST_USERS, replace=False))
    return Question(histories[users], targets[users] > 0, candidates, known[users] > 0)


def _sparse(log: TrainingLog, user: Ints, item: Ints, values: Floats | Vectors) -> Any:
    matrix = sparse.coo_array((values.astype(np.float32), (user, item)), (log.users, len(log.items))).tocsr()
    matrix.sum_duplicates()
    return matrix
