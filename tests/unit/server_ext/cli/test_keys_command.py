"""`recserve keys create`, `list` and `revoke`, and `recserve deploy gateway`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from recserve_server_ext.access.key_file import PREFIX, read_keys
from recserve_server_ext.cli import deploy, keys
from recserve_server_ext.common.workspace import Workspace
from support.certificates import Authority

runner = CliRunner()


def test_a_key_is_printed_once_listed_and_revoked(tmp_path: Path) -> None:
    home = ["--home", str(tmp_path)]
    made = runner.invoke(keys.app, ["create", "web [shop]", "--scope", "recommend", "--scope", "items", *home])
    assert made.exit_code == 0, made.output
    (key,) = made.stdout.split()
    assert key.startswith(PREFIX)
    (kept,) = read_keys(Workspace(tmp_path).api_keys)
    listed = runner.invoke(keys.app, ["list", *home])
    assert "web [shop]" in listed.stdout
    (row,) = json.loads(runner.invoke(keys.app, ["list", "--json", *home]).stdout)
    assert row == {
        "id": kept.id,
        "name": "web [shop]",
        "scopes": ["items", "recommend"],
        "created_at": kept.created_at,
    }
    for shown in (made.stderr, listed.output):
        assert key not in shown
        assert kept.sha256 not in shown
    assert runner.invoke(keys.app, ["revoke", kept.id, *home]).exit_code == 0
    assert "no API keys" in runner.invoke(keys.app, ["list", *home]).stdout
    assert runner.invoke(keys.app, ["revoke", kept.id, *home]).exit_code == 1


def test_an_unknown_scope_is_refused_with_those_there_are(tmp_path: Path) -> None:
    refused = runner.invoke(keys.app, ["create", "shop", "--scope", "root", "--home", str(tmp_path)])
    assert refused.exit_code == 2
    assert "users.erase" in refused.output
    assert not Workspace(tmp_path).api_keys.exists()


@pytest.mark.parametrize(("written", "code"), [("[auth]\nrequired = true\n", 0), ("", 1)])
def test_the_gateway_is_written_for_a_server_that_asks_for_keys(written: str, code: int, tmp_path: Path) -> None:
    files = Authority(tmp_path, "ours").issue("gateway", "recs.test")
    settings, out = tmp_path / "settings.toml", tmp_path / "gateway"
    settings.write_text(written)
    command = ["gateway", "--out", str(out), "--config", str(settings), "--cert", str(files.cert)]
    done = runner.invoke(deploy.app, [*command, "--key", str(files.key), "--listen", "127.0.0.1:8443"])
    assert done.exit_code == code, done.output
    assert (out / "nginx.conf").exists() == (code == 0)
    if code == 0:
        assert f"nginx -c {out / 'nginx.conf'}" in done.output.replace("\n", "")
