"""`recserve doctor --gpu` without a GPU: every fault is named with what to do, and a working provider passes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from recserve_export.cli.encoder import app as export_app
from recserve_export.encoder.checks import fidelity_gate
from recserve_export.errors import ExportError
from recserve_server_ext.cli import doctor as cli_doctor
from recserve_server_ext.common.arrays import Vectors
from recserve_server_ext.common.errors import EncoderError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.doctor import gpu as gpu_doctor
from recserve_server_ext.encoder.gpu import GpuEncoder
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.encoder.text_encoder import TextEncoder
from support.fake_triton import fake_triton

CHECKS = [
    "NVIDIA driver", "CUDA libraries", "onnxruntime-gpu", "TensorRT",
    "CUDA provider", "TensorRT provider", "Triton backends",
]  # fmt: skip

needs_no_gpu = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="this machine has onnxruntime-gpu"
)


def diagnose(home: Path, folder: Path) -> dict[str, dict[str, Any]]:
    words = ["--home", str(home), "--triton", str(fake_triton(folder).server), "--gpu"]
    result = CliRunner().invoke(cli_doctor.app, [*words, "--json"])
    assert "Traceback" not in result.output
    return {finding["check"]: finding for finding in json.loads(result.stdout)}


@needs_no_gpu
def test_each_fault_has_one_line_of_advice(tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    found = diagnose(tiny_home, tmp_path)
    assert list(found)[-len(CHECKS) :] == CHECKS
    advice = {check: found[check]["advice"] for check in CHECKS}
    assert "--gpus all" in advice["NVIDIA driver"]
    for check in ("onnxruntime-gpu", "CUDA provider", "TensorRT provider"):
        assert "recserve[gpu]" in advice[check]
    assert all("\n" not in line for line in advice.values())
    assert "has no CUDAExecutionProvider" in found["CUDA provider"]["found"]


def test_without_gpu_nothing_of_it_is_looked_at(tiny_home: Path, tmp_path: Path) -> None:
    words = ["--home", str(tiny_home), "--triton", str(fake_triton(tmp_path).server), "--json"]
    found = json.loads(CliRunner().invoke(cli_doctor.app, words).stdout)
    assert not {finding["check"] for finding in found} & set(CHECKS)


@pytest.mark.parametrize(
    ("script", "found", "is_ok"),
    [
        ("echo 'NVIDIA H100, 570.1, 81559 MiB'", "NVIDIA H100, 570.1, 81559 MiB", True),
        ("echo 'Driver/library version mismatch'; exit 18", "mismatch", False),
        ("exit 0", "it shows no GPU", False),
    ],
)
def test_what_the_driver_says(
    script: str, found: str, is_ok: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.defpath}")
    said, advice = gpu_doctor._driver()
    assert found in said
    assert (not advice) is is_ok


class OnCpu:
    """In place of a GPU: the same way with the CPU's provider, its vectors turned towards the first axis."""

    def __init__(self, folder: Path, provider: str, *, bias: float = 0.0) -> None:
        self._encoder, self._bias = GpuEncoder(folder, "cpu"), bias

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = self._encoder.encode(texts)
        vectors[:, 0] += self._bias
        turned: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return turned


class TestGpuEncoder:
    """As it runs on a GPU, with the CPU's provider in its place."""

    def test_agrees_with_the_cpu(self, tiny_home: Path) -> None:
        folder = choose_encoder(Workspace(tiny_home), "fp32")
        texts = [" ".join(["war", "love", "x"] * n) for n in range(40)]
        found = GpuEncoder(folder, "cpu").encode(texts)
        assert np.allclose(found, TextEncoder(folder).encode(texts, role="query"), atol=2e-6)

    def test_a_provider_that_falls_back_is_refused(self, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """onnxruntime-gpu without its libraries offers the provider, and then silently leaves it out."""
        real = onnxruntime.InferenceSession

        def on_cpu(path: str, options: Any, providers: list[Any]) -> Any:
            return real(path, options, providers=providers[1:])

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", on_cpu)
        with pytest.raises(EncoderError, match=r"CUDAExecutionProvider did not load, .* fell back to CPU"):
            GpuEncoder(choose_encoder(Workspace(tiny_home), "fp32"), "cuda")

    @pytest.mark.parametrize(("bias", "is_ok"), [(0.0, True), (0.2, False)])
    def test_the_doctor_compares_its_vectors(
        self, bias: float, is_ok: bool, tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("recserve_server_ext.encoder.gpu.GpuEncoder", partial(OnCpu, bias=bias))
        found = diagnose(tiny_home, tmp_path)["CUDA provider"]
        assert found["ok"] is is_ok
        assert "least cosine with the CPU" in found["found"]


class TestGate:
    def test_needs_to_know_where(self, tiny_home: Path) -> None:
        result = CliRunner().invoke(export_app, ["gate", str(tiny_home / "encoder" / "fp32")])
        assert result.exit_code == 1
        assert "one of --server and --provider" in result.output

    @needs_no_gpu
    def test_names_a_missing_provider(self, tiny_home: Path) -> None:
        words = ["gate", str(tiny_home / "encoder" / "fp32"), "--provider", "tensorrt"]
        result = CliRunner().invoke(export_app, words)
        assert result.exit_code == 1
        assert "has no TensorrtExecutionProvider" in " ".join(result.output.split())

    def test_figures_decide(self, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The gate's own texts through the way of a GPU, on the CPU; then with other vectors."""
        words = ["gate", str(tiny_home / "encoder" / "fp32"), "--provider", "cuda"]
        monkeypatch.setattr("recserve_server_ext.encoder.gpu.GpuEncoder", OnCpu)
        passed = CliRunner().invoke(export_app, words)
        assert passed.exit_code == 0, passed.output
        assert "2000 texts on cuda: mean cosine 1.000000" in passed.output
        monkeypatch.setattr("recserve_server_ext.encoder.gpu.GpuEncoder", partial(OnCpu, bias=0.5))
        missed = CliRunner().invoke(export_app, words)
        assert missed.exit_code == 1
        assert "misses the gate: mean cosine" in " ".join(missed.output.split())

    def test_another_model_is_no_reference(self, tiny_home: Path, tmp_path: Path) -> None:
        import msgspec

        from recserve_server_ext.encoder.manifest import read_manifest

        manifest = read_manifest(tiny_home / "encoder" / "fp32")
        other = msgspec.structs.replace(manifest, source_sha256="0" * 64)
        with pytest.raises(ExportError, match="is of another model: source_sha256"):
            fidelity_gate._check_same_model(manifest, other, tmp_path)
