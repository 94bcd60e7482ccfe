"""The alerts and the dashboard of deploy/monitoring name metrics that exist, and say what their tests expect."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import dashboard
from support.markdown import ROOT, read

FOLDER = ROOT / "deploy/monitoring"
METRIC = re.compile(r"\b(?:recserve|nv)_[a-z_]+\b")


def alerts() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def documented() -> set[str]:
    """Metrics of docs/reference/metrics.md, which another test compares with the source."""
    return set(METRIC.findall(read("reference/metrics.md")))


def expressions() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def test_every_metric_exists() -> None:
    of_dashboard, of_alerts = expressions(), [rule["expr"] for rule in alerts().values()]
    assert len(of_dashboard) > 15
    for expression in (*of_dashboard, *of_alerts):
        assert set(METRIC.findall(expression)) <= documented(), expression


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tests = (FOLDER / "alerts_test.yml").read_text()
    for name, rule in alerts().items():
        assert f'"{name}"' in tests or f"alertname: {name}" in tests
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "do"}


def test_the_dashboard_is_the_one_that_is_made() -> None:
    assert (FOLDER / "dashboard.json").read_text() == dashboard.made()


def test_rules_and_expressions_by_promtool(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"], cwd=FOLDER, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rules = [
        {"record": f"line{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    file = tmp_path / "dashboard.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
