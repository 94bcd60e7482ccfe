"""Metrics of the catalogue that the model `recommend` serves."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from recserve_server_ext.index.space import TEXT
from recserve_server_ext.index.trained import made_at
from recserve_server_ext.triton.metrics.models import Metric, gauge

if TYPE_CHECKING:
    from recserve_server_ext.catalogue.view import View


class ViewMetrics:
    """Gauges of the served view of the catalogue, and of what was trained for it."""

    def __init__(self) -> None:
        self._of_spaces: dict[str, Metric] = {}
        self._gauges = [
            gauge(name, text)
            for name, text in (
                ("recserve_catalogue_revision", "Revision of the catalogue that is served"),
                ("recserve_catalogue_snapshot_revision", "Revision of the snapshot under it"),
                ("recserve_catalogue_snapshot_created_timestamp_seconds", "Moment that snapshot was made"),
                ("recserve_catalogue_snapshot_items", "Items of that snapshot"),
                ("recserve_catalogue_delta_items", "Items that changed since and are searched exactly"),
                ("recserve_catalogue_unavailable_items", "Rows not recommended: removed, replaced, unavailable"),
            )
        ]

    def show(self, view: View) -> None:
        """Set every gauge; a space that is not served any more has none. After `release_metrics` it does nothing."""
        if self._gauges[0].is_released:
            return
        manifest = view.snapshot.manifest
        created_s = datetime.fromisoformat(manifest.created).timestamp()
        made = {TEXT: created_s} | {name: made_at(version).timestamp() for name, version in manifest.trained.items()}
        for name in self._of_spaces.keys() - made.keys():
            self._of_spaces.pop(name).release()
        for name in made.keys() - self._of_spaces.keys():
            text = "Moment that a served space, matrix or model was made"
            self._of_spaces[name] = gauge("recserve_space_created_timestamp_seconds", text, space=name)
        for name, moment in made.items():
            self._of_spaces[name].set(moment)
        values = (
            view.revision,
            manifest.revision,
            created_s,
            manifest.items,
            0 if view.delta is None else view.delta.count,
            view.unavailable,
        )
        for shown, value in zip(self._gauges, values, strict=True):
            shown.set(value)
