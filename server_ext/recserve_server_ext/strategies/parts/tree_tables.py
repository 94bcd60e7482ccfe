"""Scores and SHAP values of small boosted trees by table: what a tree says depends only on the side of each split.

A tree's splits make a grid. LightGBM's own values of one row of each cell are all there are: a row is looked up, in
place of being walked through the tree or explained anew. Trees share thresholds; each is compared once for all rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any, Final

import numpy as np

from recserve_server_ext.common.arrays import Floats, Ints

#: Cells of a tree at most: those of six splits, each of another feature.
_MOST_CELLS: Final = 64
#: Rows that are looked up at once, so that memory is bounded.
_BLOCK: Final = 4096


class TreeTables:
    """Scores rows of features, and explains them by groups of features, which add up to the score.

    Trees with more cells than `_MOST_CELLS` are left to LightGBM, which gives the same.
    """

    def __init__(self, booster: Any, groups: Sequence[int]) -> None:
        """
        Args:
            booster: A `lightgbm.Booster`.
            groups: [features + 1] group of each feature, and of what all rows have.
        """
        self._booster = booster
        self._matrix = np.zeros((len(groups), max(groups) + 1))
        self._matrix[np.arange(len(groups)), groups] = 1.0
        splits = [_splits(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
        self._is_tabulated = max((_cells(of) for of in splits), default=1) <= _MOST_CELLS
        if self._is_tabulated:
            self._place_splits(splits)
            self._tabulate(splits)

    def scores(self, rows: Floats) -> Floats:
        """[rows] scores of rows of features [rows, features], to the last bit those of the booster."""
        if not self._is_tabulated:
            return np.asarray(self._booster.predict(rows, num_threads=1), np.float64)
        return self._looked_up(self._scores, rows)

    def shares(self, rows: Floats) -> Floats:
        """[rows, groups] what each group adds to the score of each row [rows, features]."""
        if not self._is_tabulated:
            return np.asarray(self._booster.predict(rows, pred_contrib=True, num_threads=1) @ self._matrix)
        return self._looked_up(self._shares, rows)

    def _looked_up(self, table: Floats, rows: Floats) -> Floats:
        """[rows, ...] the sum of what the trees have in a table for each row, in the order of the trees."""
        blocks = [rows[start : start + _BLOCK] for start in range(0, len(rows), _BLOCK)] or [rows]
        found: Floats = np.concatenate([table[self._places(block)].sum(axis=0) for block in blocks])
        return found

    def _places(self, rows: Floats) -> Ints:
        """[trees, rows] the place in the tables of the cell that each row lies in."""
        # Features first, so that all rows of a feature lie together.
        values = np.ascontiguousarray(rows.T)
        is_above = np.zeros((self._compared + 1, len(rows)), np.bool_)
        for (feature, thresholds), end in zip(self._thresholds, self._ends, strict=True):
            np.greater(values[feature], thresholds, out=is_above[end - len(thresholds) : end])
        cells = np.zeros((len(self._first_cells), len(rows)), np.uint8)
        for lines, strides in zip(self._lines.T, self._strides.T, strict=True):
            cells += is_above.view(np.uint8)[lines] * strides[:, None]
        places: Ints = cells + self._first_cells[:, None]
        return places

    def _place_splits(self, splits: Sequence[Mapping[int, list[float]]]) -> None:
        """Give each distinct threshold a line, in which all rows are compared with it, and each split its line."""
        distinct: dict[int, set[float]] = defaultdict(set)
        for of in splits:
            for feature, thresholds in of.items():
                distinct[feature].update(thresholds)
        self._thresholds = [(feature, np.sort([*distinct[feature]])[:, None]) for feature in sorted(distinct)]
        self._ends = np.cumsum([len(thresholds) for _, thresholds in self._thresholds], dtype=np.int64).tolist()
        line_of: dict[tuple[int, float], int] = {}
        for feature, column in self._thresholds:
            line_of |= {(feature, threshold): len(line_of) + n for n, threshold in enumerate(column[:, 0].tolist())}
        shape = len(splits), max((sum(map(len, of.values())) for of in splits), default=0)
        # No row is above the last line, for trees with fewer splits than others.
        self._compared = len(line_of)
        self._lines: Ints = np.full(shape, self._compared)
        self._strides = np.zeros(shape, np.uint8)
        for tree, of in enumerate(splits):
            lines = [line_of[feature, threshold] for feature, thresholds in of.items() for threshold in thresholds]
            self._lines[tree, : len(lines)] = lines
            stride, strides = _cells(of), list[int]()
            for thresholds in of.values():
                stride //= len(thresholds) + 1
                strides += [stride] * len(thresholds)
            self._strides[tree, : len(strides)] = strides

    def _tabulate(self, splits: Sequence[Mapping[int, list[float]]]) -> None:
        """Ask for the values of a row of each cell of each tree."""
        scores, shares = list[Floats](), list[Floats]()
        for tree, of in enumerate(splits):
            rows = np.zeros((_cells(of), len(self._matrix) - 1))
            for cell, values in enumerate(product(*(_sides(thresholds) for thresholds in of.values()))):
                rows[cell, list(of)] = values
            only = {"start_iteration": tree, "num_iteration": 1, "num_threads": 1}
            scores.append(self._booster.predict(rows, **only))
            shares.append(self._booster.predict(rows, pred_contrib=True, **only) @ self._matrix)
        self._scores = np.concatenate([np.zeros(0), *scores])
        self._shares = np.concatenate([np.zeros((0, self._matrix.shape[1])), *shares])
        self._first_cells: Ints = np.cumsum([0, *map(len, scores)])[:-1]


def _splits(node: Mapping[str, Any]) -> dict[int, list[float]]:
    """The thresholds of each feature of a tree, ascending."""
    found: dict[int, set[float]] = defaultdict(set)
    for feature, threshold in _walk(node):
        found[feature].add(threshold)
    return {feature: sorted(found[feature]) for feature in sorted(found)}


def _walk(node: Mapping[str, Any]) -> Iterator[tuple[int, float]]:
    if "split_feature" in node:
        yield node["split_feature"], node["threshold"]
        yield from _walk(node["left_child"])
        yield from _walk(node["right_child"])


def _cells(splits: Mapping[int, Sequence[float]]) -> int:
    return int(np.prod([len(thresholds) + 1 for thresholds in splits.values()], dtype=np.int64))


def _sides(thresholds: Sequence[float]) -> list[float]:
    """A value of each interval; a value that is equal to a threshold is below it.

    The least value is not the threshold itself: LightGBM reads -1e-35, the threshold below zero, as zero.
    """
    above = [float(np.nextafter(threshold, np.inf)) for threshold in thresholds]
    return [float(np.nextafter(thresholds[0], -np.inf)), *above]
