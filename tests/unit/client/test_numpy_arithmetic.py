"""Which arithmetic the `recserve` program has numpy's OpenBLAS use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recserve_client import cpu_info
from recserve_client.cli import main


@pytest.mark.parametrize(
    ("flags", "given", "expected"),
    [
        ("fma avx2 avx512f avx512bw avx512cd avx512dq avx512vl", None, "SkylakeX"),
        ("fma avx2 avx512f avx512bw avx512cd avx512dq avx512vl", "Haswell", "Haswell"),
        ("fma avx2 avx512f", None, None),
    ],
)
def test_numpy_takes_the_widest_arithmetic(
    flags: str, given: str | None, expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"model name\t: AMD EPYC\nflags\t\t: {flags}\n")
    monkeypatch.setattr(cpu_info, "_CPU_INFO", info)
    monkeypatch.setenv("OPENBLAS_CORETYPE", given or "")
    if given is None:
        monkeypatch.delenv("OPENBLAS_CORETYPE")
    main.use_avx512()
    assert os.environ.get("OPENBLAS_CORETYPE") == expected


def test_a_system_without_cpu_information_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_info, "_CPU_INFO", tmp_path / "missing")
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    main.use_avx512()
    assert "OPENBLAS_CORETYPE" not in os.environ
