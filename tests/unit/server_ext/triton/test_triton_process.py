"""How a tritonserver is called, and what becomes of its log, with a script in its place."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from recserve_server_ext.common.errors import LaunchError
from recserve_server_ext.triton import process as triton_process
from recserve_server_ext.triton.binary import TritonBinary, find_triton
from recserve_server_ext.triton.process import Endpoint, TritonProcess, claim_endpoint, claim_port

Run = Callable[[str], TritonProcess]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Starts a shell script as tritonserver."""

    def start(script: str) -> TritonProcess:
        server = tmp_path / "tritonserver"
        server.write_text(f"#!/bin/sh\n{script}\n")
        server.chmod(0o755)
        binary = TritonBinary(server, "path", libraries=tmp_path / "libs")
        return TritonProcess(binary, tmp_path, Endpoint("127.0.0.1", 1, 2))

    return start


def _ended(process: TritonProcess) -> str:
    """What it wrote, once it has ended by itself."""
    process._process.wait(30)
    return process.log.read_text()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=2", "glibc.malloc.hugetlb=2"),
    ],
)
def test_huge_pages_are_asked_for_unless_told_otherwise(
    run: Run, monkeypatch: pytest.MonkeyPatch, given: str, expected: str
) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", given)
    assert _ended(run('printf "%s" "$GLIBC_TUNABLES"')) == expected


def test_it_listens_where_told_with_http_off_and_admin_protocols_closed(run: Run) -> None:
    process = run('printf "%s\\n" "$@"')
    arguments = _ended(process).splitlines()
    for expected in (
        "--grpc-address=127.0.0.1",
        "--grpc-port=1",
        "--metrics-port=2",
        "--allow-http=false",
        "--model-control-mode=explicit",
    ):
        assert expected in arguments
    ((name, secret),) = process.admin
    (restricted,) = [argument for argument in arguments if argument.startswith("--grpc-restricted-protocol=")]
    assert restricted.endswith(f":recserve-admin={secret}")
    assert "model-repository,shared-memory,trace,logging:" in restricted
    assert name == "triton-grpc-protocol-recserve-admin"


def test_all_models_are_loaded_side_by_side(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / "models" / name).mkdir(parents=True)
    assert "--model-load-thread-count=3" in _ended(run('printf "%s\\n" "$@"')).splitlines()


def test_each_start_has_a_secret_of_its_own(run: Run) -> None:
    first, second = run("exit 0"), run("exit 0")
    assert first.admin != second.admin
    for process in (first, second):
        process.kill()


def test_its_children_find_this_interpreter_and_do_not_multiply_threads(run: Run, tmp_path: Path) -> None:
    seen = dict(line.split("=", 1) for line in _ended(run("env")).splitlines() if "=" in line)
    assert seen["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert set(seen["PYTHONPATH"].split(os.pathsep)) == set(filter(None, sys.path))
    assert seen["LD_LIBRARY_PATH"].split(os.pathsep)[:2] == [str(tmp_path / "lib"), str(tmp_path / "libs")]
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "1"


def test_the_last_errors_are_quoted_else_the_last_lines(run: Run) -> None:
    process = run("echo E1 bad; echo I2 fine; echo error: worse; echo I3 fine")
    _ended(process)
    assert process.last_lines() == "E1 bad\nerror: worse"
    process = run("echo I1; echo I2")
    _ended(process)
    assert process.last_lines(1) == "I2"


def test_the_log_of_the_server_before_is_kept(run: Run) -> None:
    _ended(run("echo first"))
    process = run("echo second")
    assert _ended(process) == "first\nsecond\n"
    assert process.last_lines() == "second"


def test_a_log_that_grew_too_large_starts_anew_with_no_hole(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_process, "_LOG_BYTES", 3)
    process = run("echo before; until [ -f go ]; do sleep 0.02; done; echo after".replace("go", "$0.go"))
    while process.log.read_text() != "before\n":
        assert process.exit_code() is None
    process.bound_log()
    process.log.with_name("tritonserver.go").touch()
    assert _ended(process) == "after\n"
    assert process.log.with_name("triton.log.1").read_text() == "before\n"


def test_a_log_that_somebody_removed_stops_nothing(run: Run) -> None:
    process = run("exit 0")
    process.log.unlink()
    process.bound_log()
    process.kill()


def test_an_end_takes_its_children_along(run: Run) -> None:
    process = run("sleep 1000 & echo $!; wait")
    while not (pid := process.log.read_text().strip()):
        assert process.exit_code() is None
    child = psutil.Process(int(pid))
    process.stop()
    _, left = psutil.wait_procs([child], timeout=10)
    assert not left


#: A Python process of a model; it writes a line once it runs.
_STUB = "sh -c 'echo up; sleep 1000; true' \"$(dirname $0)/models/recommend/1/model.py\""


@pytest.mark.parametrize(
    ("ends", "drained"), [("kill $!", True), ("exit 0", True), ("exit 1", False), ("true", False)], ids=str
)
def test_a_server_without_python_processes_has_drained(
    run: Run, monkeypatch: pytest.MonkeyPatch, ends: str, *, drained: bool
) -> None:
    """It is not waited for any more; one that keeps them is ended when its time is over."""
    monkeypatch.setattr(triton_process, "_DRAIN_S", 30 if drained else -4.9)
    process = run(f"trap '{ends}' TERM; {_STUB} & while :; do wait; sleep 0.02; done")
    while process.log.read_text() != "up\n":
        assert process.exit_code() is None
    assert process.living_stubs() == {"recommend"}
    assert process.stop() is drained
    assert not psutil.pid_exists(process.pid)


def test_a_taken_port_is_named_with_what_to_do() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"127\.0\.0\.1:{port} for grpc: .*--grpc-port \(0 = any free one\)"):
            claim_port("127.0.0.1", port, "grpc")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(LaunchError, match=re.escape("192.0.2.1:8001")):
        claim_endpoint("192.0.2.1", 8001, 0)


def test_one_port_cannot_be_both() -> None:
    port = claim_port("127.0.0.1", 0, "grpc")
    with pytest.raises(LaunchError, match="--metrics-port"):
        claim_endpoint("127.0.0.1", port, port)


def test_free_ports_differ() -> None:
    endpoint = claim_endpoint("127.0.0.1", 0, 0)
    assert 0 < endpoint.grpc_port != endpoint.metrics_port > 0


@pytest.mark.parametrize(
    ("host", "reached", "options"),
    [
        ("127.0.0.1", "127.0.0.1", ["--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"]),
        ("0.0.0.0", "127.0.0.1", ["--grpc-address=0.0.0.0", "--metrics-address=0.0.0.0"]),
        ("::1", "[::1]", ["--grpc-address=[::1]", "--metrics-address=ipv6:::1"]),
        ("::", "[::1]", ["--grpc-address=[::]", "--metrics-address=ipv6:::"]),
    ],
)
def test_both_fronts_listen_on_the_host(host: str, reached: str, options: list[str]) -> None:
    endpoint = Endpoint(host, 1, 2)
    assert (endpoint.grpc, endpoint.metrics) == (f"{reached}:1", f"{reached}:2")
    assert [option for option in endpoint.options if "address" in option] == options
    assert endpoint.is_local == (host in ("127.0.0.1", "::1"))


def test_metrics_listen_where_they_are_told() -> None:
    endpoint = claim_endpoint("0.0.0.0", 0, 0, metrics_host="localhost")
    assert (endpoint.is_local, endpoint.has_local_metrics) == (False, True)
    assert endpoint.metrics.startswith(("127.0.0.1:", "[::1]:"))
    assert "--grpc-address=0.0.0.0" in endpoint.options
    assert not claim_endpoint("127.0.0.1", 0, 0, metrics_host="0.0.0.0").has_local_metrics


def test_a_socket_takes_the_place_of_host_and_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        endpoint = claim_endpoint("127.0.0.1", port, 0, socket_path="/run/recserve/grpc")
    assert endpoint.grpc == f"unix:/run/recserve/grpc:{port}"
    assert endpoint.options[:2] == ["--grpc-address=unix:/run/recserve/grpc", f"--grpc-port={port}"]
    assert endpoint.is_local
    assert claim_endpoint("127.0.0.1", 0, 0, socket_path="/run/recserve/grpc").grpc_port
    with pytest.raises(LaunchError, match="too long"):
        claim_endpoint("127.0.0.1", 0, 0, socket_path=f"/run/{'a' * 120}")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
def test_it_says_whether_somebody_listens(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        endpoint = Endpoint(host, listener.getsockname()[1], 2)
        assert endpoint.is_listening
    assert not endpoint.is_listening


def test_it_says_whether_somebody_listens_on_a_socket(tmp_path: Path) -> None:
    endpoint = Endpoint("127.0.0.1", 8001, 2, socket=str(tmp_path / "grpc"))
    assert not endpoint.is_listening
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "grpc:8001"))
        listener.listen()
        assert endpoint.is_listening
    assert not endpoint.is_listening


def test_only_a_server_that_asks_for_keys_sees_headers() -> None:
    assert not any("header" in option for option in Endpoint("127.0.0.1", 1, 2).options)
    asking = Endpoint("127.0.0.1", 1, 2, own_key="secret")
    assert "--grpc-header-forward-pattern=^authorization$" in asking.options
    assert "secret" not in repr(asking)
    assert not any("secret" in option for option in asking.options)


def test_a_name_is_resolved_for_triton() -> None:
    assert claim_endpoint("localhost", 0, 0).host in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["", "no-such-host.invalid", "a b", "x" * 300])
def test_no_address_is_refused(host: str) -> None:
    with pytest.raises(LaunchError, match="is no address to listen on"):
        claim_endpoint(host, 0, 0)


def test_an_explicit_server_has_to_be_executable(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="not an executable file"):
        find_triton(tmp_path)


def test_a_server_on_the_path_goes_before_the_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_triton() == TritonBinary(server, "PATH")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_triton().origin == "wheel"
