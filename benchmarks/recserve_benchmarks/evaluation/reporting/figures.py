"""Figures of systems from what was observed on the test parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from recserve_benchmarks.evaluation.metrics import ACCURACY, Lists, accuracy, restricted
from recserve_benchmarks.evaluation.ranking import Known, item_age_groups, item_popularity_groups
from recserve_benchmarks.evaluation.reporting.comparison import compared, mean_and_error
from recserve_benchmarks.evaluation.system import AUTO, Kind, System
from recserve_server_ext.common.arrays import Floats, Ints, Mask

#: Groups of users by the number of their known interactions: name, least and greatest.
USER_GROUPS: Final = (("1-5", 1, 5), ("6-20", 6, 20), ("21-100", 21, 100), ("over 100", 101, np.inf))
#: What is told of a group.
_OF_GROUP: Final = ("ndcg_at_10", "hr_at_10", "recall_at_10")
_COMPARED: Final = "ndcg_at_10"
Figures = dict[str, Any]


class Observations:
    """What each user got by each system on the test parts of a protocol, and figures over them.

    The rows of a user in several parts, or with several seeds, go together in all errors and comparisons.
    """

    def __init__(self, systems: Sequence[System]) -> None:
        self._kinds: dict[str, Kind] = {system.name: system.kind for system in systems}
        self._kinds[AUTO] = "strategy"
        self._users: list[Ints] = []
        self._activity: list[Ints] = []
        self._held_out: list[Ints] = []
        self._values: dict[str, dict[str, list[Floats]]] = {name: defaultdict(list) for name in self._kinds}
        self._of_all: dict[str, list[dict[str, float]]] = defaultdict(list)

    def __bool__(self) -> bool:
        """Whether anything was observed."""
        return bool(self._users)

    def begin(self, known: Known, lists: Lists) -> None:
        """Begin a part."""
        self._part, self._lists = known, lists
        self._targets = {"": known.part.targets}
        if known.part.candidates is not None:
            self._held_out.append(known.part.users)
            return
        self._users.append(known.part.users)
        self._activity.append(known.activity)
        groups = {"cold_items": known.popularity == 0}
        groups |= {f"popularity.{name}": items for name, items in item_popularity_groups(known).items()}
        groups |= {f"age.{name}": items for name, items in item_age_groups(known).items()}
        self._targets |= {f"{name}.": restricted(known.part.targets, items) for name, items in groups.items()}

    def add(self, name: str, rankings: Ints) -> None:
        """Add the rankings of a system, [users, length]."""
        values = self._values[name]
        if self._part.part.candidates is not None:
            for metric, of_users in accuracy(rankings, self._part.part.targets, _OF_GROUP).items():
                values[f"held_out.{metric}"].append(of_users)
            return
        for prefix, targets in self._targets.items():
            for metric, of_users in accuracy(rankings, targets, _OF_GROUP if prefix else ACCURACY).items():
                values[prefix + metric].append(of_users)
        for metric, of_users in self._lists.of_users(rankings).items():
            values[f"lists.{metric}"].append(of_users)
        self._of_all[name].append(self._lists.of_all(rankings[self._part.activity > 0]))

    def figures(self, reference: str, seed: int) -> dict[str, Figures]:
        """The figures of each system, compared with the reference and with `auto` by a paired bootstrap."""
        users, activity = np.concatenate(self._users), np.concatenate(self._activity)
        values = {
            name: {metric: np.concatenate(parts) for metric, parts in of.items()} for name, of in self._values.items()
        }
        found = {name: self._of_system(name, of, users, activity) for name, of in values.items()}
        with_history = activity > 0
        if with_history.any():
            asked = {name: of[_COMPARED][with_history] for name, of in values.items()}
            for key, other in (("against", reference), ("against_auto", AUTO)):
                for name, difference in compared(asked, users[with_history], other, seed).items():
                    found[name][key] = {"reference": other, **difference}
        return found

    def _of_system(self, name: str, values: dict[str, Floats], users: Ints, activity: Ints) -> Figures:
        def of(rows: Mask, metrics: Sequence[str], prefix: str = "") -> Figures:
            asked = {metric: mean_and_error(values[prefix + metric][rows], users[rows]) for metric in metrics}
            answered = users[rows][~np.isnan(values[prefix + metrics[0]][rows])]
            counts = {"users": len(np.unique(answered)), "questions": len(answered)}
            return {**counts, **{metric: figure for metric, figure in asked.items() if figure}}

        warm = activity > 0
        everybody = np.ones(len(users), np.bool_)
        found: Figures = {"kind": self._kinds[name], **of(warm, ACCURACY)}
        found["activity"] = {
            group: of((activity >= least) & (activity <= most), _OF_GROUP) for group, least, most in USER_GROUPS
        }
        found["cold_users"] = of(~warm, ACCURACY)
        found["cold_items"] = self._cold_items(values) or of(everybody, _OF_GROUP, "cold_items.")
        found["items"] = {
            kind: {group: of(everybody, _OF_GROUP, f"{kind}.{group}.") for group in groups}
            for kind, groups in (("popularity", ("head", "middle", "tail")), ("age", ("new", "old")))
        }
        found["lists"] = self._described(name, values, users, warm)
        return found

    def _cold_items(self, values: dict[str, Floats]) -> Figures:
        """Of items that were held out, among these; empty where none were."""
        if not self._held_out:
            return {}
        users = np.concatenate(self._held_out)
        figures = {metric: mean_and_error(values[f"held_out.{metric}"], users) for metric in _OF_GROUP}
        return {"users": len(users), "questions": len(users), **figures}

    def _described(self, name: str, values: dict[str, Floats], users: Ints, warm: Mask) -> Figures:
        metrics = [metric for metric in values if metric.startswith("lists.")]
        found: Figures = {metric[6:]: mean_and_error(values[metric][warm], users[warm]) for metric in metrics}
        for metric in self._of_all[name][0] if self._of_all[name] else ():
            parts = [part[metric] for part in self._of_all[name] if metric in part]
            found[metric] = {"mean": float(np.mean(parts))}
        return {metric: figure for metric, figure in found.items() if figure}
