"""Triton model `echo`: the same tensors as `recommend`, an answer of the same size, and no work in between."""

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    """Answers every request with the same bytes."""

    def initialize(self, args: dict[str, str]) -> None:
        settings = Path(args["model_repository"]) / args["model_version"] / "settings.json"
        self._answer = b"x" * int(settings.read_text())

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        pb.get_input_tensor_by_name(request, "request").as_numpy()
        elements = np.empty((1, 1), np.object_)
        elements[0, 0] = self._answer
        return pb.InferenceResponse(output_tensors=[pb.Tensor("response", elements)])
