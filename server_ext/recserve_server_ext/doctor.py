"""Checks of an installation: what is wrong, and what to do about it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from recserve_server_ext import cpu
from recserve_server_ext.encoder_manifest import choose_encoder, read_manifest
from recserve_server_ext.errors import ServerError
from recserve_server_ext.settings import ServeSettings
from recserve_server_ext.snapshot import Snapshot, current
from recserve_server_ext.triton_binary import find_triton
from recserve_server_ext.triton_process import claim_port
from recserve_server_ext.workspace import Workspace

_GLIBC = (2, 35)
_INSTALL = "pip install 'recserve[serve]'"


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        check: What was looked at.
        found: What was there.
        advice: What to do; empty when all is well.
    """

    check: str
    found: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.advice


def examine(workspace: Workspace, settings: ServeSettings) -> list[Finding]:
    """Run every check; none stops the others."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", _python),
        ("glibc", _glibc),
        ("numpy", lambda: _package("numpy", below=(2,), why="nvidia-pytriton needs numpy below 2")),
        ("hnswlib", lambda: _package("hnswlib")),
        ("onnxruntime", _onnxruntime),
        ("Triton", _triton),
        ("CPU", _cpu),
        ("encoder", lambda: _encoder(workspace, settings)),
        ("snapshot", lambda: _snapshot(workspace, settings)),
        ("gRPC port", lambda: _port(settings.host, settings.grpc_port, "grpc")),
        ("metrics port", lambda: _port(settings.host, settings.metrics_port, "metrics")),
    ]
    return [_run(name, check) for name, check in checks]


def _run(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        found = check()
    except ServerError as error:
        text, _, advice = str(error).partition("; ")
        return Finding(name, text, advice or "see the message")
    return Finding(name, found.found, found.advice)


def _python() -> Finding:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return Finding("Python", platform.python_version(), "" if good else "use Python 3.11, 3.12 or 3.13")


def _glibc() -> Finding:
    name, found = platform.libc_ver()
    good = name == "glibc" and tuple(map(int, found.split(".")[:2])) >= _GLIBC
    advice = "" if good else "the wheel's Triton needs glibc 2.35 or newer; name another tritonserver with --triton"
    return Finding("glibc", f"{name} {found}".strip() or "none", advice)


def _package(name: str, *, below: tuple[int, ...] | None = None, why: str = "") -> Finding:
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "not installed", _INSTALL)
    if below is not None and tuple(map(int, found.split(".")[:1])) >= below:
        return Finding(name, found, f"{why}: {_INSTALL}")
    return Finding(name, found)


def _onnxruntime() -> Finding:
    cpu_build, gpu_build = _package("onnxruntime"), _package("onnxruntime-gpu")
    if cpu_build.ok and gpu_build.ok:
        both = f"onnxruntime {cpu_build.found} and onnxruntime-gpu {gpu_build.found}"
        return Finding("onnxruntime", both, "uninstall both, then install one of the two")
    return gpu_build if gpu_build.ok else cpu_build


def _triton() -> Finding:
    binary = find_triton()
    return Finding("Triton", f"from {binary.origin}: {binary.server.name}" + (", stub found" if binary.stub else ""))


def _cpu() -> Finding:
    kind = "int8 dot products" if cpu.has_int8_dot_product() else "no int8 dot products: fp32 is served by default"
    return Finding("CPU", f"{cpu.model_name()}, {cpu.usable_cores()} cores, {kind}")


def _encoder(workspace: Workspace, settings: ServeSettings) -> Finding:
    folder = choose_encoder(workspace, settings.precision)
    manifest = read_manifest(folder)
    return Finding("encoder", f"{manifest.name}, {manifest.precision}, {manifest.runtime_fingerprint}")


def _snapshot(workspace: Workspace, settings: ServeSettings) -> Finding:
    encoder = read_manifest(choose_encoder(workspace, settings.precision), verify=False).runtime_fingerprint
    snapshot = Snapshot.load(current(workspace.snapshots), encoder=encoder)
    return Finding("snapshot", f"{snapshot.manifest.id}, {snapshot.manifest.items:,} items, checksums good")


def _port(host: str, port: int, what: str) -> Finding:
    claim_port(host, port, what)
    return Finding(what, f"{host}:{port} is free")
