"""Metrics of the experiments that the model `recommend` serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import triton_python_backend_utils as pb

from recserve_server_ext.config.experiments import Experiment, version_of
from recserve_server_ext.triton.metrics.models import Metric, SampledMetrics


class ExperimentMetrics(SampledMetrics):
    """The share of the users in each experiment that is served; 0 for one that was served and is not any more."""

    def __init__(self, served: Callable[[], Sequence[Experiment]]) -> None:
        """Set the metrics for the first time, and start the thread."""
        self._served = served
        text = "Share of the users in a running experiment; 0 after its end"
        name = "recserve_experiment_share"
        self._families = [pb.MetricFamily(name=name, description=text, kind=pb.MetricFamily.GAUGE)]
        self._shown: dict[tuple[str, str], Metric] = {}
        super().__init__([])

    def close(self) -> None:
        """End the thread, and let go of the family."""
        super().close()
        self._families.clear()

    def sample(self) -> None:
        """Set the share of each experiment and version."""
        running = {(one.name, version_of(one)): one.share for one in self._served()}
        for key in running.keys() - self._shown.keys():
            (family,) = self._families
            self._shown[key] = Metric(family, experiment=key[0], version=key[1])
        for key, metric in self._shown.items():
            metric.set(running.get(key, 0.0))
