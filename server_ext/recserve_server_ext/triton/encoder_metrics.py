"""The Prometheus metric of what waits for the encoder. Only in a Python model; apart, as `items` has it too."""

from __future__ import annotations

import triton_python_backend_utils as pb


class EncoderMetrics:
    """Shows how many requests of a model wait for the encoder, in a gauge."""

    def __init__(self, model: str) -> None:
        self._family = pb.MetricFamily(
            name="recserve_encoder_waiting_requests",
            description="Requests that wait for the encoder",
            kind=pb.MetricFamily.GAUGE,
        )
        self._waiting = self._family.Metric(labels={"model": model})

    def show(self, waiting: int) -> None:
        """Set the gauge."""
        self._waiting.set(float(waiting))
