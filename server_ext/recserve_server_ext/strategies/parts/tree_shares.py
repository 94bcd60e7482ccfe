"""SHAP values of small boosted trees by table: what groups of features add to the score of each row.

A SHAP value of a tree depends on nothing but the side of each split that a row lies on. So LightGBM's own values of one
row of each cell of a tree's grid are all there are; a row is looked up in place of being explained anew.
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


class TreeShares:
    """Explains rows of features by groups of features, which add up to the score."""

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
            self._tabulate(splits)

    def of(self, rows: Floats) -> Floats:
        """[rows, groups] what each group adds to the score of each row [rows, features]."""
        if not self._is_tabulated:
            return np.asarray(self._booster.predict(rows, pred_contrib=True, num_threads=1) @ self._matrix)
        # Features first, so that all rows of a feature lie together.
        is_above = np.ascontiguousarray(rows.T)[self._features] > self._thresholds[:, :, None]
        cells = (is_above * self._strides[:, :, None]).sum(axis=1, dtype=np.uint8)
        found: Floats = self._table[cells + self._first_cells[:, None]].sum(axis=0)
        return found

    def _tabulate(self, splits: Sequence[Mapping[int, list[float]]]) -> None:
        """Ask for the values of a row of each cell of each tree."""
        shape = len(splits), max((sum(map(len, of.values())) for of in splits), default=0)
        self._features: Ints = np.zeros(shape, np.int64)
        self._thresholds: Floats = np.full(shape, np.inf)
        self._strides = np.zeros(shape, np.uint8)
        tables = []
        for tree, of in enumerate(splits):
            place, stride = 0, _cells(of)
            rows = np.zeros((stride, len(self._matrix) - 1))
            for cell, values in enumerate(product(*(_sides(thresholds) for thresholds in of.values()))):
                rows[cell, list(of)] = values
            for feature, thresholds in of.items():
                stride //= len(thresholds) + 1
                own = slice(place, place := place + len(thresholds))
                self._features[tree, own], self._thresholds[tree, own] = feature, thresholds
                self._strides[tree, own] = stride
            values = self._booster.predict(
                rows, start_iteration=tree, num_iteration=1, pred_contrib=True, num_threads=1
            )
            tables.append(values @ self._matrix)
        self._table: Floats = np.concatenate(tables) if tables else np.zeros((1, self._matrix.shape[1]))
        self._first_cells: Ints = np.cumsum([0, *map(len, tables)])[:-1]


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
