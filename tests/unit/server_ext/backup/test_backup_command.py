"""`recserve backup` as it is typed."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from recserve_server_ext.cli.backup import app
from recserve_server_ext.common.workspace import Workspace
from support.backups import erase


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_backup_from_making_to_restoring(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("")
    config = tmp_path / "serve.toml"
    config.write_text(f'[users]\nrules = "{rules}"\n')
    made = [run("create", folder, "--home", workspace.home, "--config", config) for _ in range(2)]
    assert [found.exit_code for found in made] == [0, 0]
    assert "MB in all" in made[0].stderr
    first, second = (found.stdout.strip() for found in made)
    listed = run("list", folder)
    assert listed.stdout.index(second) < listed.stdout.index(first)
    assert run("verify", folder).exit_code == 0
    erase(workspace, "ann")
    new = tmp_path / "new"
    restored = run("restore", folder, first, "--home", new, "--ledger", workspace.erasures)
    assert restored.exit_code == 0, restored.stderr
    assert "1 users who were erased since are erased again" in restored.stderr
    assert "put the keys of the pseudonyms" in restored.stderr
    assert sorted(path.name for path in (new / "settings").iterdir()) == ["rules.toml", "serve.toml"]
    pruned = run("prune", folder, "--keep", "1")
    assert f"removed {first}" in pruned.stderr
    assert first not in run("list", folder).stdout


def test_faults_are_one_line(workspace: Workspace, folder: Path, tmp_path: Path) -> None:
    assert run("create", folder, "--home", workspace.home).exit_code == 0
    (block, *_) = (folder / "blocks").rglob("??????????*")
    block.write_bytes(b"")
    key = tmp_path / "key"
    key.write_text("ab" * 32)
    key.chmod(0o600)
    cases = {
        ("verify", folder): "is damaged: SHA-256",
        ("verify", folder, "--key-file", key): "was made with no key, not with key",
        ("verify", folder, "1"): "no backup '1' in",
        ("verify", tmp_path): "no backup in",
        ("list", tmp_path): "no backup in",
        ("restore", folder, "--home", workspace.home): "is not empty",
        ("create", folder, "--home", tmp_path / "none"): "there is no home at",
        ("create", key / "x", "--home", workspace.home): "cannot be used: Not a directory",
    }
    for words, expected in cases.items():
        found = run(*words)
        assert found.exit_code == 1, words
        assert expected in found.stderr
        assert len([line for line in found.stderr.splitlines() if line.startswith("error:")]) == 1
        assert found.stderr.strip().splitlines()[-1].startswith("error:")
    manifest = next(folder.glob("*.json"))
    manifest.write_text("{}")
    assert "unreadable" in run("list", folder).stdout
