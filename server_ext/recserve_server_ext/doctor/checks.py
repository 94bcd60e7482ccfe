"""Checks of an installation: what is wrong, and what to do about it."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import LaunchError, ServerError
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.doctor.finding import Finding
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.triton.binary import PYTHON, TritonBinary, find_triton

# What needs an extra is imported where it is used: a check of an incomplete installation has to run on one.

_GLIBC = (2, 35)
_INSTALL = "pip install 'recserve[serve]'"
_ORIGINS = {"path": "as given", "PATH": "from PATH", "wheel": "from the wheel nvidia-pytriton"}
_START_S = 20.0
#: Exit code of the dynamic loader when a library is missing.
_NOT_LOADED = 127


def examine(
    workspace: Workspace, settings: ServeSettings, triton: Path | None = None, *, gpu: bool = False
) -> list[Finding]:
    """Run every check; none stops the others.

    Args:
        workspace: Where encoder and snapshots should be.
        settings: Those to serve with.
        triton: The tritonserver to run instead of the one found.
        gpu: Whether to look for a GPU, too, and to run the encoder on it.
    """
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("Python", _python),
        ("glibc", _glibc),
        ("numpy", lambda: _package("numpy", below=(2,), why="nvidia-pytriton needs numpy below 2")),
        ("hnswlib", lambda: _package("hnswlib")),
        ("onnxruntime", _onnxruntime),
        ("Triton", lambda: _triton(triton)),
        ("Python stub", lambda: _stub(triton)),
        ("CPU", _cpu),
        ("encoder", lambda: _encoder(workspace, settings)),
        ("encoder target", lambda: _target(workspace, settings, triton)),
        ("snapshot", lambda: _snapshot(workspace, settings)),
        ("catalogue store", lambda: _store(workspace, settings)),
        ("gRPC port", lambda: _port(settings.host, settings.grpc_port, "grpc")),
        ("metrics port", lambda: _port(settings.host, settings.metrics_port, "metrics")),
    ]
    if gpu:
        from recserve_server_ext.doctor.gpu import gpu_checks

        checks += gpu_checks(workspace, settings, triton)
    return [_run(name, check) for name, check in checks]


def _run(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        found = check()
    except ServerError as error:
        text, _, advice = str(error).partition("; ")
        return Finding(name, text, advice or "see the message")
    except ModuleNotFoundError as error:
        return Finding(name, f"not checked: {error.name} is not installed", _INSTALL)
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


def _triton(explicit: Path | None) -> Finding:
    binary = find_triton(explicit)
    return Finding("Triton", f"{_version_of(binary)}, {_ORIGINS[binary.origin]}")


def _version_of(binary: TritonBinary) -> str:
    """What the server says of itself: it is started with no models, since only that shows that it runs here."""
    from recserve_server_ext.triton.probes import server_version
    from recserve_server_ext.triton.process import TritonProcess, claim_endpoint
    from recserve_server_ext.triton.repository import assemble

    with tempfile.TemporaryDirectory() as aside:
        assemble(Path(aside), [], binary)
        endpoint = claim_endpoint("127.0.0.1", 0, 0)
        process = TritonProcess(binary, Path(aside), endpoint)
        try:
            found = server_version(endpoint.grpc, _START_S, until=lambda: process.exit_code() is not None)
            if found is None:
                raise LaunchError(f"{binary.server} does not run: {process.last_lines(1)}; name another with --triton")
            return found
        finally:
            process.kill()


def _stub(explicit: Path | None) -> Finding:
    from recserve_server_ext.triton.process import child_environment
    from recserve_server_ext.triton.repository import assemble

    binary = find_triton(explicit)
    if binary.stub is None:
        return Finding("Python stub", f"the server's own; it has to be for Python {PYTHON}")
    with tempfile.TemporaryDirectory() as aside:
        assemble(Path(aside), [], binary)
        # Without arguments it only asks for some, once the loader has found its libraries.
        environment = child_environment(binary, Path(aside))
        run = subprocess.run([binary.stub], env=environment, capture_output=True, text=True, timeout=10, check=False)
    if run.returncode == _NOT_LOADED:
        return Finding("Python stub", run.stderr.strip()[-200:], f"install libpython{PYTHON}")
    return Finding("Python stub", f"for Python {PYTHON}, loads")


def _cpu() -> Finding:
    kind = "int8 dot products" if cpu.has_int8_dot_product() else "no int8 dot products: fp32 is served by default"
    return Finding("CPU", f"{cpu.model_name()}, {cpu.usable_cores()} cores, {kind}")


def _encoder(workspace: Workspace, settings: ServeSettings) -> Finding:
    folder = choose_encoder(workspace, settings.precision)
    manifest = read_manifest(folder)
    return Finding("encoder", f"{manifest.name}, {manifest.precision}, {manifest.runtime_fingerprint}")


def _target(workspace: Workspace, settings: ServeSettings, explicit: Path | None) -> Finding:
    from recserve_server_ext.triton.encoder_target import find_backend, fitted

    folder = choose_encoder(workspace, settings.precision)
    asked = settings.encoder
    fitted(folder, read_manifest(folder, verify=False), settings)
    if asked.target != "embedded":
        find_backend(find_triton(explicit), asked)
    where = f" on {asked.provider}" if asked.target == "onnxruntime" else ""
    return Finding("encoder target", f"{asked.target}{where}")


def _snapshot(workspace: Workspace, settings: ServeSettings) -> Finding:
    from recserve_server_ext.index.snapshot import Snapshot, current

    encoder = read_manifest(choose_encoder(workspace, settings.precision), verify=False).runtime_fingerprint
    snapshot = Snapshot.load(current(workspace.snapshots), encoder=encoder)
    return Finding("snapshot", f"{snapshot.manifest.id}, {snapshot.manifest.items:,} items, checksums good")


def _store(workspace: Workspace, settings: ServeSettings) -> Finding:
    from recserve_server_ext.catalogue.store import CatalogueStore
    from recserve_server_ext.index.manifest import read_manifest as read_snapshot_manifest
    from recserve_server_ext.index.snapshot import current

    place = workspace.store_at(settings.store)
    if isinstance(place, Path) and not place.is_file():
        return Finding("catalogue store", "none: the snapshot is served, nothing can be changed")
    with CatalogueStore(place) as store:
        head = store.head()
        manifest = read_snapshot_manifest(current(workspace.snapshots), verify=False)
        found = f"revision {head.revision:,}, snapshot of {manifest.revision:,}"
        if manifest.source != head.identity or head.imported_at > manifest.revision:
            return Finding("catalogue store", f"{found}, from another import", "run: recserve index build")
        return Finding("catalogue store", f"{found}, {store.pending(manifest.revision):,} changes since")


def _port(host: str, port: int, what: str) -> Finding:
    from recserve_server_ext.triton.process import claim_port

    claim_port(host, port, what)
    return Finding(what, f"{host}:{port} is free")
