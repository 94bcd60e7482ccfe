"""What a start waits for: the models that only encode import neither the stores nor the engines."""

from __future__ import annotations

import subprocess
import sys

import pytest

MODULES = (
    "batching.batcher",
    "config.server",
    "encoder.loaded",
    "encoder.text_encoder",
    "services.embed",
    "services.encoder",
    "services.recommend_text",
    "triton.metrics",
)
#: Triton's own module is there in its Python processes only.
STUB = "import sys; sys.modules['triton_python_backend_utils'] = sys; "
LOOK = STUB + "import {room}.{module}; print(*{{'sqlalchemy', 'faiss', 'hnswlib'}} & set(sys.modules))"


@pytest.mark.parametrize("module", MODULES)
def test_what_encodes_leaves_stores_and_engines_alone(module: str) -> None:
    look = LOOK.format(room="recserve_server_ext", module=module)
    ended = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.split() == []
