"""`recserve doctor` and the early refusals of `recserve serve`, with a stand-in for tritonserver."""

from __future__ import annotations

import builtins
import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from recserve_client.contract import models as names
from recserve_server_ext.catalogue.store import CatalogueStore
from recserve_server_ext.cli import doctor as cli_doctor
from recserve_server_ext.cli import serve as cli_serve
from recserve_server_ext.common.workspace import Workspace
from recserve_server_ext.config.server import ServeSettings
from recserve_server_ext.doctor.checks import examine
from recserve_server_ext.interactions.store import InteractionStore
from recserve_server_ext.triton.process import Endpoint, claim_port
from support.events import event
from support.fake_triton import fake_triton
from support.tiny_home import copy_home

CHECKS = [
    "Python",
    "glibc",
    "numpy",
    "hnswlib",
    "onnxruntime",
    "Triton",
    "Python stub",
    "CPU",
    "encoder",
    "encoder target",
    "snapshot",
    "catalogue store",
    "log",
    "evaluation",
    "gRPC port",
    "metrics port",
]


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that is listened on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        yield int(listener.getsockname()[1])


def config(folder: Path, **settings: int) -> Path:
    path = folder / "serve.toml"
    path.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    return path


def diagnose(home: Path, triton: Path, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    words = ["--home", str(home), "--triton", str(triton), "--json", *options]
    result = CliRunner().invoke(cli_doctor.app, words)
    return result.exit_code, {finding["check"]: finding for finding in json.loads(result.stdout)}


def test_a_complete_installation_is_well(tiny_home: Path, tmp_path: Path) -> None:
    ports = config(tmp_path, grpc_port=0, metrics_port=0)
    code, found = diagnose(tiny_home, fake_triton(tmp_path).server, "--config", str(ports))
    assert list(found) == CHECKS
    assert {check: finding["advice"] for check, finding in found.items() if not finding["ok"]} == {}
    assert code == 0
    assert found["Triton"]["found"] == "triton 0.0.1, as given"


def test_what_serve_needs_beyond_loopback_is_said(tiny_home: Path, tmp_path: Path) -> None:
    path = config(tmp_path, grpc_port=0, metrics_port=0)
    for host, is_open in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        path.write_text(f'grpc_port = 0\nmetrics_port = 0\nhost = "{host}"\n')
        _, found = diagnose(tiny_home, fake_triton(tmp_path).server, "--config", str(path))
        assert ("serve asks for --insecure: 0.0.0.0 is not loopback" in found["gRPC port"]["found"]) == is_open
        assert found["gRPC port"]["ok"]


def test_ids_that_do_not_fit_are_found(tiny_home: Path, tmp_path: Path) -> None:
    home = copy_home(tiny_home, tmp_path / "home")
    with CatalogueStore(Workspace(home).store) as items:
        known = next(items.items()).id
    triton = fake_triton(tmp_path).server
    with InteractionStore(Workspace(home).interactions, create=True) as log:
        log.record([event(item="elsewhere", timestamp=1.7e9)])
        _, found = diagnose(home, triton)
        assert "0.0% of 1 interactions name an item" in found["log"]["found"]
        assert found["log"]["advice"] == "import both with the same ids"
        log.record([event(item=known, timestamp=1.7e9)])
        _, found = diagnose(home, triton)
    assert "50.0% of 2 interactions name an item" in found["log"]["found"]
    assert found["log"]["ok"]


def test_each_fault_has_advice(tmp_path: Path, taken: int) -> None:
    wrong = config(tmp_path, grpc_port=taken, metrics_port=claim_port("127.0.0.1", 0, "metrics"))
    code, found = diagnose(tmp_path / "empty", Path("/bin/false"), "--config", str(wrong))
    assert code == 1
    advice = {check: finding["advice"] for check, finding in found.items() if not finding["ok"]}
    assert set(advice) == {"Triton", "encoder", "encoder target", "snapshot", "gRPC port"}
    assert "--triton" in advice["Triton"]
    assert "recserve export encoder" in advice["encoder"]
    assert "--grpc-port" in advice["gRPC port"]


def test_the_table_fits_100_columns(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli_doctor.app, ["--home", str(tmp_path), "--triton", "/nonexistent/tritonserver"])
    assert result.exit_code == 1
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    assert "Traceback" not in result.output


def test_what_is_not_installed_is_a_finding(tiny_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "recserve_server_ext.index.snapshot":
            raise ModuleNotFoundError("No module named 'hnswlib'", name="hnswlib")
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    triton = fake_triton(tmp_path).server
    found = {finding.check: finding for finding in examine(Workspace(tiny_home), ServeSettings(grpc_port=0), triton)}
    assert "hnswlib is not installed" in found["snapshot"].found
    assert "pip install" in found["snapshot"].advice


def test_a_stub_that_lacks_its_libpython_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub, backends = tmp_path / "triton_python_backend_stub", tmp_path / "backends"
    stub.write_text("#!/bin/sh\necho libpython3.11.so.1.0: cannot open shared object file >&2\nexit 127\n")
    stub.chmod(0o755)
    (backends / "python").mkdir(parents=True)
    binary = replace(fake_triton(tmp_path), backends=backends, stub=stub)
    monkeypatch.setattr("recserve_server_ext.doctor.checks.find_triton", lambda _: binary)
    found = {finding.check: finding for finding in examine(Workspace(tmp_path), ServeSettings(grpc_port=0))}
    assert "libpython3.11.so.1.0" in found["Python stub"].found
    assert "install libpython" in found["Python stub"].advice


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        (["--precision", "int4"], 2, "int4"),
        (["--grpc-port", "70000"], 2, "70000"),
        (["--config", "/nonexistent/serve.toml"], 1, "/nonexistent/serve.toml"),
        (["--triton", "/nonexistent/tritonserver"], 1, "/nonexistent/tritonserver"),
        (["--unheard-of"], 2, "--unheard-of"),
    ],
)
def test_serve_refuses_in_one_line(tmp_path: Path, words: list[str], code: int, named: str) -> None:
    result = CliRunner().invoke(cli_serve.app, ["--home", str(tmp_path), *words])
    assert result.exit_code == code
    assert named in result.stderr
    assert "Traceback" not in result.output


def test_serve_names_a_taken_port(tiny_home: Path, tmp_path: Path, taken: int) -> None:
    triton = str(fake_triton(tmp_path).server)
    words = ["--home", str(tiny_home), "--triton", triton, "--grpc-port", str(taken)]
    result = CliRunner().invoke(cli_serve.app, words)
    assert result.exit_code == 1
    (line,) = result.stderr.strip().splitlines()
    assert f":{taken}" in line
    assert "--grpc-port" in line


def test_the_probed_models_are_those_served() -> None:
    from recserve_server_ext.triton.probes import Probes, ProbeSubject
    from support.versions import loaded_encoder

    probes = Probes(Endpoint("127.0.0.1", 1, 2), ProbeSubject("a", loaded_encoder("0123456789abcdef")))
    steps = [names.TOKENIZE, names.POOL, names.RECOMMEND_TEXT]
    assert probes.models == [names.INTERACTIONS, names.ENCODER, names.RECOMMEND, names.EMBED, *steps]
    probes.close()
