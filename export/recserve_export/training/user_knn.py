"""Trains `user_knn`: the items of users, by user and by item, to find neighbours of a profile in.

J. Herlocker, J. Konstan, A. Borchers and J. Riedl, "An algorithmic framework for performing collaborative filtering",
SIGIR 1999.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from recserve_export.training.base import Learned, Trainer, TrainingLog, TrainSettings
from recserve_server_ext.common.arrays import Ints, Mask, Vectors
from recserve_server_ext.strategies.user_knn import BY_ITEM, BY_USER, OFFSETS_BY_ITEM, OFFSETS_BY_USER


class UserKnnSettings(TrainSettings, frozen=True):
    """Settings of `user_knn`.

    Attributes:
        most_users: Users that can be neighbours, the ones with the newest behaviours.
        most_of_user: Items of a user that count, the newest ones.
        most_of_item: Users of an item that are looked at, the ones with the newest behaviours. This bounds what a
            request costs.
    """

    most_users: Annotated[int, Meta(ge=1, le=10_000_000)] = 100_000
    most_of_user: Annotated[int, Meta(ge=1, le=100_000)] = 200
    most_of_item: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000


class UserKnnTrainer(Trainer):
    """Sparse rows of 0 and 1: which items each user had. The users have numbers, and no ids."""

    Settings = UserKnnSettings
    is_for_all = True

    def train(self, log: TrainingLog, text: Vectors | None, settings: UserKnnSettings) -> Learned:
        """Keep the newest users and their newest items, numbered by the recency of the users."""
        items, user, item = np.flatnonzero(log.counts), log.user, log.item
        newest = np.full(log.users, np.iinfo(np.int64).min)
        np.maximum.at(newest, user, log.time_us)
        # The newest user is number 0, so that the first users of an item are its newest ones.
        number = np.empty(log.users, np.int64)
        number[np.argsort(-newest, kind="stable")] = np.arange(log.users)
        kept = _is_newest(log, settings.most_of_user) & (number[user] < settings.most_users)
        place_of = np.full(len(log.items), -1, np.int64)
        place_of[items] = np.arange(len(items))
        users = min(log.users, settings.most_users)
        pairs = np.unique(number[user[kept]] * len(items) + place_of[item[kept]])
        of_user, of_item = np.divmod(pairs, len(items))
        order = np.argsort(of_item, kind="stable")
        lengths = np.bincount(of_item, minlength=len(items))
        within = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        order = order[within < settings.most_of_item]
        arrays = {
            OFFSETS_BY_USER: _offsets(of_user, users),
            BY_USER: of_item.astype(np.int32),
            OFFSETS_BY_ITEM: _offsets(of_item[order], len(items)),
            BY_ITEM: of_user[order].astype(np.int32),
        }
        return Learned(items=items, model=arrays, figures={"users": users, "items": len(items), "pairs": len(pairs)})

    def needed_bytes(self, log: TrainingLog, settings: UserKnnSettings) -> int:
        """A few sorted copies of the log."""
        return 80 * len(log.item) + 40 * (log.users + len(log.items))


def _is_newest(log: TrainingLog, most: int) -> Mask:
    """[interactions] whether each is among the newest of its user."""
    lengths = np.bincount(log.user, minlength=log.users)
    before_end = np.repeat(np.cumsum(lengths), lengths) - 1 - np.arange(len(log.user))
    return np.asarray(before_end < most)


def _offsets(rows: Ints, count: int) -> Ints:
    """[count + 1] where the entries of each row begin."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))]).astype(np.int64)
