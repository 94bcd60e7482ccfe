"""The checks of `recserve doctor`: what is wrong with an installation, and what to do about it."""

from __future__ import annotations

import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from recserve_server_ext.common import cpu
from recserve_server_ext.common.errors import LaunchError, ServerError
from recserve_server_ext.common.workspace import Workspace, store_place
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.doctor.gpu import Outcome, gpu_checks
from recserve_server_ext.encoder.manifest import read_manifest
from recserve_server_ext.encoder.selection import choose_encoder
from recserve_server_ext.triton.binary import PYTHON, TritonBinary, find_triton

# Modules that need an extra are imported where they are used: the checks must run on an incomplete installation.

_GLIBC = (2, 35)
_INSTALL = "pip install 'recserve[serve]'"
_ORIGINS = {"path": "as given", "PATH": "from PATH", "wheel": "from the wheel nvidia-pytriton"}
_START_S = 20.0
#: A log with fewer interactions needs no evaluation, and one this many times longer needs a new one.
_LEAST_INTERACTIONS = 1000
_MUCH_LONGER = 1.5
_EVALUATE = "run: recserve evaluate"
#: Exit code of the dynamic loader when a library is missing.
_NOT_LOADED = 127


@dataclass(frozen=True)
class Finding:
    """The outcome of one check; the advice is empty when all is well."""

    check: str
    found: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.advice


def examine(
    workspace: Workspace, settings: ServeSettings, triton: Path | None = None, *, gpu: bool = False
) -> list[Finding]:
    """Run every check; none stops the others."""
    checks: list[tuple[str, Callable[[], Outcome]]] = [
        ("Python", _python),
        ("glibc", _glibc),
        ("numpy", _numpy),
        ("hnswlib", lambda: _package("hnswlib")),
        ("onnxruntime", _onnxruntime),
        ("Triton", lambda: _triton(triton)),
        ("Python stub", lambda: _stub(triton)),
        ("CPU", _cpu),
        ("encoder", lambda: _encoder(workspace, settings)),
        ("encoder target", lambda: _target(workspace, settings, triton)),
        ("snapshot", lambda: _snapshot(workspace, settings)),
        ("catalogue store", lambda: _store(workspace, settings)),
        ("log", lambda: _log(workspace, settings)),
        ("evaluation", lambda: _evaluation(workspace, settings)),
        ("gRPC port", lambda: _grpc_port(settings)),
        ("metrics port", lambda: _port(settings.metrics_host or settings.host, settings.metrics_port, "metrics")),
    ]
    if gpu:
        checks += gpu_checks(workspace, settings, triton)
    return [Finding(name, *_run(check)) for name, check in checks]


def _run(check: Callable[[], Outcome]) -> Outcome:
    try:
        return check()
    except ServerError as error:
        text, _, advice = str(error).partition("; ")
        return text, advice or "see the message"
    except ModuleNotFoundError as error:
        return f"not checked: {error.name} is not installed", _INSTALL


def _python() -> Outcome:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    return platform.python_version(), "" if good else "use Python 3.11, 3.12 or 3.13"


def _glibc() -> Outcome:
    name, found = platform.libc_ver()
    good = name == "glibc" and tuple(map(int, found.split(".")[:2])) >= _GLIBC
    advice = "" if good else "the wheel's Triton needs glibc 2.35 or newer; name another tritonserver with --triton"
    return f"{name} {found}".strip() or "none", advice


def _package(name: str) -> Outcome:
    try:
        return version(name), ""
    except PackageNotFoundError:
        return "not installed", _INSTALL


def _numpy() -> Outcome:
    found, advice = _package("numpy")
    if not advice and int(found.partition(".")[0]) >= 2:
        return found, f"nvidia-pytriton needs numpy below 2: {_INSTALL}"
    return found, advice


def _onnxruntime() -> Outcome:
    on_cpu, on_gpu = _package("onnxruntime"), _package("onnxruntime-gpu")
    if on_cpu[1] or on_gpu[1]:
        return on_cpu if on_gpu[1] else on_gpu
    both = f"onnxruntime {on_cpu[0]} and onnxruntime-gpu {on_gpu[0]}"
    return both, "uninstall both, then install one of the two"


def _triton(explicit: Path | None) -> Outcome:
    binary = find_triton(explicit)
    return f"{_version_of(binary)}, {_ORIGINS[binary.origin]}", ""


def _version_of(binary: TritonBinary) -> str:
    """Version of a server, which is started without models: only that shows that it runs here."""
    from recserve_server_ext.triton.probes import server_version
    from recserve_server_ext.triton.process import TritonProcess, claim_endpoint
    from recserve_server_ext.triton.repository import assemble

    with tempfile.TemporaryDirectory() as aside:
        assemble(Path(aside), [], binary)
        endpoint = claim_endpoint("127.0.0.1", 0, 0)
        process = TritonProcess(binary, Path(aside), endpoint)
        try:
            found = server_version(endpoint, _START_S, until=lambda: process.exit_code() is not None)
            if found is None:
                raise LaunchError(f"{binary.server} does not run: {process.last_lines(1)}; name another with --triton")
            return found
        finally:
            process.kill()


def _stub(explicit: Path | None) -> Outcome:
    from recserve_server_ext.triton.process import child_environment
    from recserve_server_ext.triton.repository import assemble

    binary = find_triton(explicit)
    if binary.stub is None:
        return f"the server's own; it has to be for Python {PYTHON}", ""
    with tempfile.TemporaryDirectory() as aside:
        assemble(Path(aside), [], binary)
        # Without arguments it prints its usage, once the loader has found its libraries.
        environment = child_environment(binary, Path(aside))
        run = subprocess.run([binary.stub], env=environment, capture_output=True, text=True, timeout=10, check=False)
    if run.returncode == _NOT_LOADED:
        return run.stderr.strip()[-200:], f"install libpython{PYTHON}"
    return f"for Python {PYTHON}, loads", ""


def _cpu() -> Outcome:
    kind = "int8 dot products" if cpu.has_int8_dot_product() else "no int8 dot products: fp32 is served by default"
    return f"{cpu.model_name()}, {cpu.usable_cores()} cores, {kind}", ""


def _encoder(workspace: Workspace, settings: ServeSettings) -> Outcome:
    manifest = read_manifest(choose_encoder(workspace, settings.precision))
    return f"{manifest.name}, {manifest.precision}, {manifest.runtime_fingerprint}", ""


def _target(workspace: Workspace, settings: ServeSettings, explicit: Path | None) -> Outcome:
    from recserve_server_ext.triton.encoder_target import find_backend, fitted

    folder = choose_encoder(workspace, settings.precision)
    asked = settings.encoder
    fitted(folder, read_manifest(folder, verify=False), settings)
    if asked.target != "embedded":
        find_backend(find_triton(explicit), asked)
    return f"{asked.target}{f' on {asked.provider}' if asked.target == 'onnxruntime' else ''}", ""


def _snapshot(workspace: Workspace, settings: ServeSettings) -> Outcome:
    from recserve_server_ext.index.pointers import current
    from recserve_server_ext.index.snapshot import Snapshot

    encoder = read_manifest(choose_encoder(workspace, settings.precision), verify=False).runtime_fingerprint
    manifest = Snapshot.load(current(workspace.snapshots), encoder=encoder).manifest
    return f"{manifest.id}, {manifest.items:,} items, checksums good", ""


def _store(workspace: Workspace, settings: ServeSettings) -> Outcome:
    from recserve_server_ext.catalogue.store import CatalogueStore
    from recserve_server_ext.index.manifest import read_manifest as read_snapshot_manifest
    from recserve_server_ext.index.pointers import current

    place = workspace.store_at(settings.store)
    if isinstance(place, Path) and not place.is_file():
        return "none: the snapshot is served, nothing can be changed", ""
    with CatalogueStore(place) as store:
        head = store.head()
        manifest = read_snapshot_manifest(current(workspace.snapshots), verify=False)
        found = f"revision {head.revision:,}, snapshot of {manifest.revision:,}"
        if manifest.source != head.identity or head.imported_at > manifest.revision:
            return f"{found}, from another import", "run: recserve index build"
        return f"{found}, {store.pending(manifest.revision):,} changes since", ""


def _log(workspace: Workspace, settings: ServeSettings) -> Outcome:
    """Which interactions name an item of the catalogue."""
    from recserve_server_ext.catalogue.store import CatalogueStore
    from recserve_server_ext.history.fits import fit_of
    from recserve_server_ext.interactions.store import InteractionStore

    log = store_place(settings.users.store) if settings.users.store else workspace.interactions
    catalogue = workspace.store_at(settings.store)
    for place, what in ((log, "interaction log"), (catalogue, "catalogue store")):
        if isinstance(place, Path) and not place.is_file():
            return f"not compared with the catalogue: there is no {what}", ""
    with InteractionStore(log) as interactions, CatalogueStore(catalogue) as items:
        fit = fit_of(interactions, items)
    if not fit.interactions:
        return "no interaction names an item", ""
    return fit.said, "import both with the same ids" if fit.is_disjoint else ""


def _evaluation(workspace: Workspace, settings: ServeSettings) -> Outcome:
    """Whether the strategies for this log were chosen on it, or on a log that was much shorter."""
    from recserve_server_ext.interactions import changes
    from recserve_server_ext.interactions.store import InteractionStore
    from recserve_server_ext.strategies.parts.chosen import read_evaluated

    place = store_place(settings.users.store) if settings.users.store else workspace.interactions
    if isinstance(place, Path) and not place.is_file():
        return "none: there is no interaction log", ""
    evaluated = read_evaluated(workspace.evaluation)
    with InteractionStore(place) as store, store.database.reading() as connection:
        count = changes.last_number(connection)
    if evaluated is None:
        return f"none, {count:,} interactions", "" if count < _LEAST_INTERACTIONS else _EVALUATE
    found = f"of {evaluated:,} interactions, {count:,} now"
    return found, _EVALUATE if count > _MUCH_LONGER * max(evaluated, _LEAST_INTERACTIONS) else ""


def _grpc_port(settings: ServeSettings) -> Outcome:
    from recserve_server_ext.triton.process import exposure

    said, todo = _port(settings.host, settings.grpc_port, "grpc")
    found = exposure(settings)
    return said + (f"; serve asks for --insecure: {found}" if found else ""), todo


def _port(host: str, port: int, what: str) -> Outcome:
    from recserve_server_ext.triton.process import claim_port

    claim_port(host, port, what)
    return f"{host}:{port} is free", ""
