"""A TypeScript client that is made from the schema of the HTTP API: it compiles, strictly, and calls a real server."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from support.http_api import http_api
from support.markdown import blocks, read
from support.served import Served

SOURCES = Path(__file__).parent / "typescript"
MINUTES_S = 300


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Node.js in a folder."""
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=MINUTES_S, check=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with its packages; skips where they cannot be had."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("Node.js with npm is not installed")
    folder = shutil.copytree(SOURCES, tmp_path_factory.mktemp("typescript") / "project")
    done = run(folder, "npm", "install", "--no-audit", "--no-fund")
    if done.returncode:
        pytest.skip(f"npm cannot install the packages here: {done.stderr[-300:]}")
    return folder


def test_a_generated_client_compiles_and_calls(project: Path, films_server: Served) -> None:
    with http_api(films_server.grpc) as address:
        (command,) = [block for block in blocks(read("how-to/serve-http.md"), "sh") if "openapi-typescript" in block]
        made = run(project, *command.replace("127.0.0.1:8080", address).split())
        assert made.returncode == 0, made.stderr
        compiled = run(project, "npx", "tsc", "-p", ".")
        assert compiled.returncode == 0, compiled.stdout
        called = run(project, "node", "built/call.js", f"http://{address}")
    assert called.returncode == 0, called.stderr
    assert len(json.loads(called.stdout)["items"]) == 3
