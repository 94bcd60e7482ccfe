"""What a start waits for: each process imports only what it needs until it answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

STORES = frozenset({"sqlalchemy"})
ENGINES = frozenset({"faiss", "hnswlib"})
#: Those, and what reads their files and what runs networks.
LARGE = STORES | {"faiss", "pyarrow", "onnxruntime", "tokenizers", "scipy"}
#: Module -> what it leaves to others. The last two come before the start of tritonserver.
LEFT = {
    **dict.fromkeys(
        (
            "batching.batcher",
            "config.server",
            "encoder.loaded",
            "encoder.text_encoder",
            "services.encoder",
            "triton.metrics",
        ),
        STORES | ENGINES,
    ),
    **dict.fromkeys(
        ("encoder.tokenizer", "services.embed", "services.recommend_text"), STORES | ENGINES | {"onnxruntime"}
    ),
    "triton.backend": LARGE | ENGINES,
    "services.interactions": ENGINES | {"pyarrow", "onnxruntime", "sqlalchemy.dialects.postgresql"},
    "services.items": {"faiss", "pyarrow", "onnxruntime", "tokenizers", "sqlalchemy.dialects.postgresql"},
    "services.recommend": {"onnxruntime", "faiss", "sqlalchemy.dialects.postgresql"},
    "strategies.registry": LARGE,
    "supervisor.supervisor": LARGE,
}
#: Triton's own module is there in its Python processes only.
STUB = """
import sys, types
stub = sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
stub.MetricFamily = types.SimpleNamespace(COUNTER=0, GAUGE=1)
"""


def _said(code: str) -> list[str]:
    ended = subprocess.run([sys.executable, "-c", STUB + code], capture_output=True, text=True, check=True, timeout=60)
    return ended.stdout.split()


@pytest.mark.parametrize("module", LEFT)
def test_what_is_needed_later_is_not_imported(module: str) -> None:
    assert _said(f"import recserve_server_ext.{module}; print(*{set(LEFT[module])} & set(sys.modules))") == []


def test_pyarrow_works_without_pandas_which_stays_importable() -> None:
    said = _said(
        "import pyarrow as pa\n"
        "from recserve_server_ext.triton.recommend import leave_pandas_out\n"
        "leave_pandas_out()\n"
        "print(*pa.array([1, None, 3]).drop_null().to_numpy(), 'pandas' in sys.modules)\n"
        "import pandas\n"
        "print(pandas.Series([4]).sum())"
    )
    assert said == ["1", "3", "False", "4"]


def test_pandas_that_is_there_already_stays_known_to_pyarrow() -> None:
    said = _said(
        "import pandas\n"
        "from recserve_server_ext.triton.recommend import leave_pandas_out\n"
        "leave_pandas_out()\n"
        "import pyarrow as pa\n"
        "print(pa.table({'a': [1, 2]}).to_pandas()['a'].sum())"
    )
    assert said == ["3"]
