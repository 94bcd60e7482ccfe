"""The prefix tree of semantic ids as sorted arrays, and beam search over the ids that exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints, Mask, Rows, Vectors
from recserve_server_ext.index.space import Space
from recserve_server_ext.networks.decoder import DecoderRunner, quantised
from recserve_server_ext.strategies.parts.sparse import SparseVector, greatest

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import SpaceView


class Level(NamedTuple):
    """The nodes of one level, sorted; a node is a distinct beginning of ids.

    Attributes:
        code: [nodes] the last code of the beginning.
        start: [nodes + 1] position in the tree of the first item below each node.
        child: [nodes of the level before + 1] first child of each node there.
    """

    code: Ints
    start: Ints
    child: Ints


class SortedIds(NamedTuple):
    """Ids of some rows, sorted.

    Attributes:
        keys: [ids] the codes as one number, ascending.
        rows: [ids] row of each.
    """

    keys: Ints
    rows: Rows


@dataclass(frozen=True, eq=False)
class IdTree:
    """The ids of the items that may be recommended.

    Attributes:
        rows: [items] rows of the catalogue, in the order of their ids.
        codes: [items, levels] their codes.
        levels: From the first codes to the last.
        place_of: [catalogue rows] position in the tree of each row; -1 for rows that are not in it.
    """

    rows: Rows
    codes: Ints
    levels: list[Level]
    place_of: Rows


class Wanted(NamedTuple):
    """What one user may get.

    Attributes:
        beam: Beginnings of ids that are followed at a level.
        n: Items wanted.
        allowed: [catalogue rows] items that match a filter; `None` without one. Users with the same object share work.
        banned: Rows that must not be returned.
    """

    beam: int
    n: int
    allowed: Mask | None
    banned: Rows


def sorted_ids(rows: Rows, codes: Ints, size: int) -> SortedIds:
    """Sort ids of `size` codes a level; equal ones by row."""
    keys = np.zeros(len(codes), np.int64)
    for of in codes.T:
        keys = keys * size + of
    order = np.lexsort([rows, keys])
    return SortedIds(keys[order], rows[order])


def ids_of_space(space: Space) -> SortedIds:
    """The ids of the vectors of a space whose network has a decoder."""
    codebooks = _codebooks(space)
    rows = np.arange(space.items) if space.rows is None else np.asarray(space.rows, np.int64)
    return sorted_ids(rows, quantised(space.vectors, codebooks), codebooks.shape[1])


def tree_of(view: SpaceView, stored: SortedIds) -> IdTree:
    """The tree of the items that may be recommended now.

    Args:
        view: The space with what changed since its snapshot.
        stored: The ids of the snapshot: `ids_of_space`.
    """
    codebooks, usable = _codebooks(view.space), view.usable
    levels, size = codebooks.shape[:2]
    kept = usable[stored.rows]
    keys, rows = stored.keys[kept], stored.rows[kept]
    changed = np.flatnonzero(usable[view.items :])
    if len(changed):
        new = sorted_ids(view.items + changed, quantised(view.changed[changed], codebooks), size)
        at = np.searchsorted(keys, new.keys, side="right")
        keys, rows = np.insert(keys, at, new.keys), np.insert(rows, at, new.rows)
    codes = keys[:, None] // size ** np.arange(levels - 1, -1, -1) % size
    found, parents = list[Level](), np.array([0, len(keys)])
    for level in range(levels):
        prefix = keys // size ** (levels - 1 - level)
        start = np.append(np.flatnonzero(np.diff(prefix, prepend=-1)), len(keys))
        found.append(Level(codes[start[:-1], level], start, np.searchsorted(start, parents)))
        parents = start
    place_of = np.full(len(usable), -1, np.int64)
    place_of[rows] = np.arange(len(rows))
    return IdTree(rows, codes, found, place_of)


class _Beams(NamedTuple):
    """Beginnings of ids that are followed, in the order of the users.

    Attributes:
        owner: [beams] place of the user.
        node: [beams] node at the level.
        value: [beams] log p of the beginning.
    """

    owner: Ints
    node: Ints
    value: Floats


class Search:
    """Beam search for a batch of users, and the probability of any items.

    A user gets `n` items wherever so many are allowed: a level follows more beginnings than the beam where fewer than
    `n` allowed items are below it. What is not allowed is out within the search, and changes no probability.
    """

    def __init__(self, tree: IdTree, space: SpaceView, runner: DecoderRunner, users: Vectors) -> None:
        """
        Args:
            tree: The ids.
            space: The space that they are of.
            runner: Its decoder.
            users: [users, dim] outputs of the network.
        """
        self._tree, self._space, self._runner, self._users = tree, space, runner, users

    def best(self, wanted: Sequence[Wanted]) -> list[tuple[Rows, SparseVector]]:
        """[users] the best rows that were reached, best first; and p of all that were reached, allowed or not yet."""
        levels, count = self._tree.levels, _Counts(self._tree, wanted)
        beam, n = np.array([of.beam for of in wanted]), np.array([of.n for of in wanted])
        owner = np.arange(len(wanted))
        beams = _Beams(owner, np.zeros(len(owner), np.int64), np.zeros(len(owner)))
        for number, level in enumerate(levels):
            codes = self._codes(beams.node, number)
            log_probs = self._runner(self._users[beams.owner], codes).log_probs[:, number]
            place, child = _below(level.child, beams.node)
            found = _Beams(beams.owner[place], child, beams.value[place] + log_probs[place, level.code[child]])
            items = count.below(found.owner, level.start[child], level.start[child + 1])
            width = np.maximum(beam, n) if number == len(levels) - 1 else beam
            beams = _kept(found, items, width, n)
        return self._items(beams, count, n)

    def probabilities(self, owner: Ints, places: Ints) -> Floats:
        """[n] p of the items at some positions of the tree, each for one user."""
        tree = self._tree
        codes = tree.codes[places]
        steps = self._runner(self._users[owner], codes)
        value = np.zeros(len(places))
        for level in range(codes.shape[1]):
            value += steps.log_probs[np.arange(len(places)), level, codes[:, level]]
        start = tree.levels[-1].start
        leaf = np.searchsorted(start, places, side="right") - 1
        of, item, share = self._shares(leaf, steps.leaf)
        p: Floats = np.exp(value + share[item == places[of]])
        return p

    def _codes(self, node: Ints, level: int) -> Ints:
        """[nodes, level] the codes of nodes of the level before."""
        if not level:
            return np.empty((len(node), 0), np.int64)
        return self._tree.codes[self._tree.levels[level - 1].start[node], :level]

    def _items(self, beams: _Beams, count: _Counts, n: Ints) -> list[tuple[Rows, SparseVector]]:
        """The items below the beams of the last level."""
        start = self._tree.levels[-1].start
        shared = np.flatnonzero(start[beams.node + 1] - start[beams.node] > 1)
        states = np.zeros((len(beams.node), self._users.shape[1]), np.float32)
        if len(shared):
            codes = self._tree.codes[start[beams.node[shared]]]
            states[shared] = self._runner(self._users[beams.owner[shared]], codes).leaf
        place, item, share = self._shares(beams.node, states)
        owner, value = beams.owner[place], np.exp(beams.value[place] + share)
        allowed = count.below(owner, item, item + 1) > 0
        found = []
        ends = np.searchsorted(owner, np.arange(len(n) + 1))
        for most, first, end in zip(n.tolist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            rows, p, is_allowed = self._tree.rows[item[first:end]], value[first:end], allowed[first:end]
            order = np.argsort(rows)
            rows, p, is_allowed = rows[order], p[order], is_allowed[order]
            own = np.flatnonzero(is_allowed)
            found.append((rows[own[greatest(p[own], most)]], SparseVector(rows, p)))
        return found

    def _shares(self, leaf: Ints, states: Vectors) -> tuple[Ints, Ints, Floats]:
        """The items of some leaves: the place of the leaf, the position in the tree, log p among those of the leaf."""
        start = self._tree.levels[-1].start
        place, item = _below(start, leaf)
        sizes = start[leaf + 1] - start[leaf]
        share = np.zeros(len(item))
        shared = np.flatnonzero(sizes[place] > 1)
        if len(shared):
            vectors = self._space.vectors(self._tree.rows[item[shared]])
            logits = np.einsum("nd,nd->n", vectors, states[place[shared]], dtype=np.float64)
            firsts = np.flatnonzero(np.diff(place[shared], prepend=-1))
            lengths = np.diff(np.append(firsts, len(shared)))
            logits -= np.repeat(np.maximum.reduceat(logits, firsts), lengths)
            share[shared] = logits - np.repeat(np.log(np.add.reduceat(np.exp(logits), firsts)), lengths)
        return place, item, share


class _Counts:
    """How many allowed items each user has below a node."""

    def __init__(self, tree: IdTree, wanted: Sequence[Wanted]) -> None:
        items = len(tree.rows)
        masks = {id(of.allowed): of.allowed for of in wanted if of.allowed is not None}
        numbers = {key: number for number, key in enumerate(masks)}
        self._sums = np.zeros((len(masks), items + 1), np.int64)
        for line, mask in zip(self._sums, masks.values(), strict=True):
            np.cumsum(mask[tree.rows], out=line[1:])
        self._of = np.array([numbers.get(id(of.allowed), -1) for of in wanted])
        banned = []
        for number, of in enumerate(wanted):
            places = np.unique(tree.place_of[of.banned])
            places = places[places >= 0]
            if of.allowed is not None:
                places = places[of.allowed[tree.rows[places]]]
            banned.append(places + number * (items + 1))
        self._banned = np.concatenate(banned)
        self._stride = items + 1

    def below(self, owner: Ints, start: Ints, end: Ints) -> Ints:
        """[n] the number of allowed items of users at the positions from `start` to `end`."""
        found = end - start
        filtered = self._of[owner]
        if (filtered >= 0).any():
            found = np.where(filtered < 0, found, self._sums[filtered, end] - self._sums[filtered, start])
        if len(self._banned):
            base = owner * self._stride
            found = found - np.searchsorted(self._banned, base + end) + np.searchsorted(self._banned, base + start)
        return found


def _below(first: Ints, node: Ints) -> tuple[Ints, Ints]:
    """What is below each of some nodes: the place of the node in the list, and the position below it."""
    starts = first[node]
    sizes = first[node + 1] - starts
    place = np.repeat(np.arange(len(node)), sizes)
    return place, np.arange(len(place)) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def _kept(found: _Beams, items: Ints, beam: Ints, n: Ints) -> _Beams:
    """The best beginnings of each user: as many as the beam, and until `n` items are below them; ties by node."""
    some = np.flatnonzero(items > 0)
    order = some[np.argsort(-found.value[some], kind="stable")]
    order = order[np.argsort(found.owner[order], kind="stable")]
    owner = found.owner[order]
    firsts = np.searchsorted(owner, owner)
    before = np.cumsum(items[order]) - items[order]
    rank = np.arange(len(order)) - firsts
    kept = order[(rank < beam[owner]) | (before - before[firsts] < n[owner])]
    return _Beams(found.owner[kept], found.node[kept], found.value[kept])


def _codebooks(space: Space) -> Vectors:
    assert space.network is not None
    assert space.network.decoder is not None
    return space.network.decoder.codebooks
