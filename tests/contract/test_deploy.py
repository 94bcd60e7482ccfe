"""The files of deploy/: schemas, what the image and the code give, and that nothing is left open."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import kubernetes_validate
import msgspec
import pytest
import typer
import yaml
from compose_spec import PyCompose

from recserve_client.cli.main import build_app
from recserve_server_ext.config.server import read_settings
from recserve_server_ext.triton.process import claim_port, exposure
from support.certificates import Authority
from support.gateway import running_nginx

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
KUBERNETES: Final = "1.33"
USER: Final = 10001


def rendered(folder: str) -> list[dict[str, Any]]:
    """What `kubectl apply -k` would send."""
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    assert kubectl is not None
    ran = subprocess.run([kubectl, "kustomize", str(DEPLOY / folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """All of the servers and the gateway."""
    return rendered("kubernetes/gateway")


def templates(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The template of every pod, by the name of what makes it."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((name, template["spec"]) for name, template in templates(manifests))


def kserve_pod() -> dict[str, Any]:
    (runtime,) = documents(DEPLOY / "kserve" / "serving-runtime.yaml")
    return {name: runtime["spec"][name] for name in ("containers", "volumes")}


def validate(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


class Metrics(BaseHTTPRequestHandler):
    """What a server shows of itself."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"up 1\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""


def test_every_manifest_fits_the_schema(manifests: list[dict[str, Any]]) -> None:
    kinds = {manifest["kind"] for manifest in manifests}
    assert kinds >= {
        "Deployment",
        "Service",
        "HorizontalPodAutoscaler",
        "PodDisruptionBudget",
        "NetworkPolicy",
        "Job",
        "CronJob",
        "PersistentVolumeClaim",
        "ConfigMap",
        "ServiceAccount",
    }
    for manifest in manifests:
        validate(manifest)
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kserve"}, "spec": kserve_pod()})


def test_a_wrong_manifest_does_not_fit(manifests: list[dict[str, Any]]) -> None:
    deployment = next(one for one in manifests if one["kind"] == "Deployment")
    deployment = {**deployment, "spec": {**deployment["spec"], "replica": 2}}
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment)


def test_every_file_is_part_of_a_kustomization() -> None:
    for folder in (DEPLOY / "kubernetes" / "base", DEPLOY / "kubernetes" / "gateway"):
        (kustomization,) = documents(folder / "kustomization.yaml")
        there = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert there == {name for name in kustomization["resources"] if name.endswith(".yaml")}


def test_no_pod_has_more_rights_than_it_needs(manifests: list[dict[str, Any]]) -> None:
    checked = [*pods(manifests), ("kserve", {**kserve_pod(), "automountServiceAccountToken": False})]
    assert len(checked) == 6
    for name, pod in checked:
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            own = {**pod.get("securityContext", {}), **container["securityContext"]}
            assert own["runAsNonRoot"] is True, name
            assert own["runAsUser"] in (USER, 101), name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert own["seccompProfile"] == {"type": "RuntimeDefault"}, name
            assert {"requests", "limits"} <= set(container["resources"]), name


def test_every_mount_has_its_volume(manifests: list[dict[str, Any]]) -> None:
    claims = {one["metadata"]["name"] for one in manifests if one["kind"] == "PersistentVolumeClaim"}
    maps = {one["metadata"]["name"] for one in manifests if one["kind"] == "ConfigMap"} | {"recserve-gateway"}
    for name, pod in pods(manifests):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert mounted == set(volumes), name
        for volume in volumes.values():
            if claim := volume.get("persistentVolumeClaim"):
                assert claim["claimName"] in claims
            if settings := volume.get("configMap"):
                assert settings["name"] in maps


def test_every_secret_is_told_of(manifests: list[dict[str, Any]]) -> None:
    told = (DEPLOY.parent / "docs" / "how-to" / "run-on-kubernetes.md").read_text(encoding="utf-8")
    content = {
        name: re.findall(r"`([^`]+)`", keys)
        for name, keys in re.findall(r"^\| `(recserve-[^`]+)` \| (.*?) \|", told, re.M)
    }
    text = yaml.safe_dump_all([*manifests, kserve_pod()])
    mounted = set(re.findall(r"secretName: (\S+)", text))
    read = re.findall(r"secretKeyRef:\s+key: (\S+)\s+name: (\S+)", text)
    assert mounted | {name for _, name in read} == set(content)
    assert [name for key, name in read if key not in content[name]] == []


def test_servers_listen_with_tls_and_keys_alone(manifests: list[dict[str, Any]]) -> None:
    settings = read_settings(DEPLOY / "kubernetes" / "base" / "serve.toml")
    assert exposure(msgspec.structs.replace(settings, host="0.0.0.0")) == ""
    (server,) = (one for one in manifests if one["kind"] == "Deployment" and one["metadata"]["name"] == "recserve")
    for pod in (server["spec"]["template"]["spec"], kserve_pod()):
        (container, metrics) = pod["containers"]
        words = " ".join([*container.get("command", []), *container["args"]])
        assert "--host" in words
        assert "--insecure" not in words
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert settings.tls.cert == f"{mounts['tls']}/tls.crt"
        assert settings.tls.key == f"{mounts['tls']}/tls.key"
        assert settings.auth.file == f"{mounts['keys']}/api-keys.json"
        told = {one["name"]: one.get("value") for one in container["env"]}
        assert told["RECSERVE_TLS_CA"] == f"{mounts['tls']}/ca.crt"
        assert "RECSERVE_KEY" in told
        assert [port["containerPort"] for port in container["ports"]] == [settings.grpc_port]
        assert [port["containerPort"] for port in metrics["ports"]] == [8443]


def test_metrics_are_served_over_tls(tmp_path: Path) -> None:
    files = Authority(tmp_path, "ours").issue("server", "127.0.0.1")
    port, behind = claim_port("127.0.0.1", 0, "nginx"), HTTPServer(("127.0.0.1", 0), Metrics)
    text = (DEPLOY / "kubernetes" / "base" / "metrics.conf").read_text(encoding="utf-8")
    for there, here in (
        (" /tmp/", f" {tmp_path}/"),
        ("listen 8443", f"listen 127.0.0.1:{port}"),
        ("127.0.0.1:8002", f"127.0.0.1:{behind.server_port}"),
        ("/etc/recserve-tls/tls.crt", str(files.cert)),
        ("/etc/recserve-tls/tls.key", str(files.key)),
    ):
        assert there in text
        text = text.replace(there, here)
    config = tmp_path / "metrics.conf"
    config.write_text(text)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    with running_nginx(config, f"127.0.0.1:{port}"):
        trusting = ssl.create_default_context(cafile=str(tmp_path / "ours.pem"))
        with httpx.Client(verify=trusting, trust_env=False, base_url=f"https://127.0.0.1:{port}") as client:
            assert client.get("/metrics").text == "up 1\n"
            assert client.get("/other").status_code == 404
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status()
    behind.shutdown()
    behind.server_close()


def test_selectors_find_the_pods(manifests: list[dict[str, Any]]) -> None:
    label = "app.kubernetes.io/component"
    components = {template["metadata"]["labels"][label] for _, template in templates(manifests)}
    assert components == {"server", "gateway", "writer"}
    assert set(re.findall(rf"{re.escape(label)}: (\w+)", yaml.safe_dump_all(manifests))) == components


def test_one_job_at_a_time_writes_snapshots(manifests: list[dict[str, Any]]) -> None:
    jobs = [one for one in manifests if one["kind"] == "CronJob"]
    assert {one["spec"]["concurrencyPolicy"] for one in jobs} == {"Forbid"}
    settings = read_settings(DEPLOY / "kubernetes" / "base" / "serve.toml")
    assert settings.compact_after == 0
    assert settings.train_every == 0


def test_the_autoscaler_asks_for_what_the_rules_give(manifests: list[dict[str, Any]]) -> None:
    (scaler,) = (one for one in manifests if one["kind"] == "HorizontalPodAutoscaler")
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"] if "pods" in metric}
    (rules,) = documents(DEPLOY / "kubernetes" / "adapter-rules.yaml")
    assert asked == {rule["name"]["as"] for rule in rules["rules"]["custom"]}


def test_settings_are_read() -> None:
    for path in DEPLOY.rglob("serve.toml"):
        settings = read_settings(path)
        assert settings.store == settings.users.store == "postgresql://recserve@postgres/recserve"


# --- compose ---


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    (found,) = documents(DEPLOY / "compose" / "compose.yaml")
    return found


def test_the_compose_file_fits_the_specification(compose: dict[str, Any]) -> None:
    plain = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", yaml.safe_dump(compose))
    parsed = PyCompose.from_yaml(plain)
    assert set(parsed.service_names()) == {
        "recserve", "postgres", "gateway", "prometheus", "grafana", "backup"
    }  # fmt: skip
    parsed.validate()
    with pytest.raises(ValueError, match="replicas_"):
        PyCompose.from_yaml(plain.replace("read_only:", "replicas_:"))


def test_services_of_compose_are_closed(compose: dict[str, Any]) -> None:
    inside = {name for name, of in compose["networks"].items() if of.get("internal")}
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not service.get("privileged"), name
        if set(service["networks"]) <= inside:
            assert "ports" not in service, name
    assert compose["services"]["recserve"]["shm_size"] == "64mb"
    assert set(compose["services"]["recserve"]["networks"]) <= inside


def test_files_that_compose_names_are_there(compose: dict[str, Any]) -> None:
    for of in compose["configs"].values():
        assert (DEPLOY / "compose" / of["file"]).is_file()


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("prometheus is not installed")
    text = (DEPLOY / "compose" / "prometheus.yml").read_text(encoding="utf-8")
    assert "/etc/prometheus/alerts.yml" in text
    config = tmp_path / "prometheus.yml"
    config.write_text(text.replace("/etc/prometheus", str(DEPLOY / "monitoring")))
    ran = subprocess.run([promtool, "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- commands ---


def commands() -> Iterator[list[str]]:
    """Every command line of recserve in these files."""
    for path in DEPLOY.rglob("*"):
        if path.suffix in (".service", ".yaml", ".sh") or path.name == "Containerfile":
            text = path.read_text(encoding="utf-8").replace("\\\n", " ")
            text = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
            for found in re.findall(r"(?:args|command|test|CMD|ENTRYPOINT):? \[(?:CMD, )?([^\]]*)\]", text):
                words = [word.strip(" \"'") for word in found.split(",")]
                if words[0] in ("recserve", "serve", "index", "backup") and len(words) > 1:
                    yield words[1:] if words[0] == "recserve" else words
            for found in re.findall(
                r"(?:/opt/recserve/bin/|exec |enter |^ +)recserve ((?:serve|index|backup|ready)[^\n&|]*)", text, re.M
            ):
                yield found.split()


def test_commands_and_their_options_are_there() -> None:
    program = typer.main.get_command(build_app())
    seen = set()
    for words in commands():
        command: Any = program
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert command is not program, words
        known = {name for of in command.params for name in of.opts}
        assert [word for word in words if word.startswith("--") and word not in known] == [], words
        seen.add(command.name)
    assert seen >= {"serve", "ready", "build", "compact", "create", "verify", "prune"}


def test_the_image_runs_as_the_user_of_the_manifests() -> None:
    text = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert re.findall(r"^USER (.*)$", text, re.M)[-1] == f"{USER}:{USER}"
    assert re.findall(r"^ARG BASE=", text, re.M)
    assert "HEALTHCHECK" in text


# --- systemd ---


@pytest.mark.parametrize("unit", sorted(path.name for path in (DEPLOY / "systemd").iterdir()))
def test_units_are_valid(unit: str, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd is not installed")
    for path in (DEPLOY / "systemd").iterdir():  # a timer looks for its service
        text = path.read_text(encoding="utf-8").replace("/opt/recserve/bin/recserve", sys.executable)
        (tmp_path / path.name).write_text(text.replace("=recserve\n", "=root\n"))
    ran = subprocess.run([verify, "verify", str(tmp_path / unit)], capture_output=True, text=True, check=False)
    faults = [line for line in ran.stderr.splitlines() if str(tmp_path) in line or unit in line]
    assert (ran.returncode, faults) == (0, [])


def test_the_unit_tells_systemd() -> None:
    text = (DEPLOY / "systemd" / "recserve.service").read_text(encoding="utf-8")
    for line in ("Type=notify", "WatchdogSec=", "NotifyAccess=main", "ProtectSystem=strict"):
        assert line in text
