"""The command line `outrigger` in processes of its own: exit codes, messages, what is on stdout and what on stderr."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mcp_operator import __version__
from mcp_operator.cli_help import EPILOGS
from mcp_operator.yaml_text import load_all

ROOT = Path(__file__).resolve().parents[3]
SECRET = "canary-c0ffee42"

NOTES = {
    "apiVersion": "outrigger.dev/v1alpha1",
    "kind": "MCPServer",
    "metadata": {"name": "notes"},
    "spec": {
        "stdio": {
            "command": "npx",
            "env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "token"}}}],
            "envFrom": [{"configMapRef": {"name": "settings"}}],
        }
    },
}
TOKENS = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "tokens"}, "stringData": {"token": SECRET}}


def cli(*arguments: str, stdin: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("MCP_", "OUTRIGGER_", "KUBE"))}
    return subprocess.run(
        [sys.executable, "-m", "mcp_operator.cli", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**env, "HOME": "/nonexistent", **environ},
    )


def rendered(*objects: dict[str, Any], arguments: tuple[str, ...] = ()) -> tuple[list[dict[str, Any]], str]:
    done = cli("render", "-f", "-", *arguments, stdin=yaml.safe_dump_all(objects))
    assert done.returncode == 0, done.stderr
    return [content for _, content in load_all(done.stdout)], done.stderr


# Arguments


@pytest.mark.parametrize("command", ["--version", "version"])
def test_version(command: str) -> None:
    done = cli(command)
    assert (done.returncode, done.stdout) == (0, f"outrigger {__version__}\n")


@pytest.mark.parametrize("command", [None, *EPILOGS])
def test_help_teaches(command: str | None) -> None:
    done = cli(*([command] if command else []), "--help")
    assert done.returncode == 0
    assert "example" in done.stdout or "first try" in done.stdout
    assert all(len(line) <= 140 for line in done.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["up"],
        ["render"],
        ["up", "-f", "x", "--port", "many"],
        ["up", "-f", "x", "--server", "notes"],
        ["status", "-A", "-n", "x"],
        ["crds", "-o", "xml"],
    ],
)
def test_bad_arguments_are_two_and_short(arguments: list[str]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2
    assert "--help" in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["render", "--help"]])
def test_little_is_imported_for_little(arguments: list[str]) -> None:
    code = "import sys; from mcp_operator.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    code += "print([n for n in ('pydantic', 'kopf', 'kubernetes', 'aiohttp', 'yaml', 'asyncio') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", ["render", "crds"])
def test_no_cluster_library_is_loaded_without_a_cluster(command: str) -> None:
    code = "import sys; from mcp_operator.cli import main; main(sys.argv[1:])\n"
    code += "print([n for n in ('kopf', 'kubernetes', 'aiohttp') if n in sys.modules], file=sys.stderr)"
    arguments = [command, *(["-f", "-"] if command == "render" else [])]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        input=yaml.safe_dump(NOTES),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stderr.splitlines()[-1] == "[]"


# render


def test_render_prints_what_would_be_applied() -> None:
    manifests, said = rendered(NOTES, TOKENS, arguments=("-n", "tools"))
    kinds = [manifest["kind"] for manifest in manifests]
    assert {"Secret", "ConfigMap", "Service", "Deployment"} <= set(kinds)
    assert kinds[-1] == "Deployment"
    assert {manifest["metadata"]["namespace"] for manifest in manifests} == {"tools"}
    assert all("ownerReferences" not in manifest["metadata"] for manifest in manifests)
    [config] = [manifest for manifest in manifests if manifest["kind"] == "ConfigMap"]
    assert list(json.loads(config["data"]["config.json"])["servers"]) == ["notes"]
    assert said.splitlines() == [
        "MCPServer notes expects the Secret tokens in namespace tools, with token (stdio.env[TOKEN])",
        "MCPServer notes expects the ConfigMap settings in namespace tools, with * (stdio.envFrom[0])",
    ]


def test_secret_is_in_nothing_that_is_rendered() -> None:
    done = cli("render", "-f", "-", stdin=yaml.safe_dump_all([NOTES, TOKENS]))
    assert SECRET not in done.stdout + done.stderr
    assert base64.b64encode(SECRET.encode()).decode() not in done.stdout


def test_session_key_is_a_placeholder_unless_a_random_one_is_asked_for() -> None:
    [placeholder] = [one for one in rendered(NOTES)[0] if one["kind"] == "Secret"]
    assert placeholder["metadata"]["name"] == "notes-session"
    assert placeholder["stringData"] == {"key": "replace-me: 32 random bytes, base64"}
    keys = set()
    for _ in range(2):
        [real] = [one for one in rendered(NOTES, arguments=("--session-keys", "random"))[0] if one["kind"] == "Secret"]
        keys.add(base64.b64decode(real["data"]["key"]))
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 2


def test_placeholder_is_refused_by_the_sidecar(tmp_path: Path) -> None:
    from mcp_operator.cli_render import PLACEHOLDER

    (tmp_path / "key").write_text(PLACEHOLDER)
    config = {"servers": {"a": {"url": "http://127.0.0.1:9/"}}, "sessions": {"keyFile": "key"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "mcp_sidecar.cli", "run", "--config", str(tmp_path / "config.json"), "--port", "0"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode != 0
    assert "key" in done.stderr


def test_json_is_one_list() -> None:
    done = cli("render", "-f", "-", "-o", "json", stdin=yaml.safe_dump(NOTES))
    found = json.loads(done.stdout)
    assert (found["apiVersion"], found["kind"]) == ("v1", "List")
    assert found["items"] == rendered(NOTES)[0]


def test_render_is_stable() -> None:
    assert rendered(NOTES) == rendered(NOTES)


def test_images_come_from_the_operators_settings(tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("images: {registry: registry.example/o, tag: '9'}\nclusterDomain: example.test\n")
    manifests, _ = rendered(NOTES, arguments=("--config", str(file)))
    [deployment] = [one for one in manifests if one["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/o/sidecar-runtime:9"


def test_everything_wrong_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump_all([NOTES, {**NOTES, "metadata": {"name": "Bad_Name"}}]))
    bad = {**NOTES, "metadata": {"name": "bad"}, "spec": {"timeouts": {"timeout": "soon"}}}
    bad["spec"] |= {"stdio": {"comand": "x", "env": [{"name": "TOKEN", "value": [SECRET]}]}}
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(bad))
    (tmp_path / "c.yaml").write_text("a: [")
    done = cli("render", "-f", str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    said = done.stderr.replace(f"{tmp_path}/", "")
    assert "a.yaml, document 2 (MCPServer Bad_Name): metadata.name" in said
    for path in ("spec.stdio.command", "spec.stdio.comand", "spec.stdio.env[0].value", "spec.timeouts.timeout"):
        assert f"  b.yaml, document 1 (MCPServer bad): {path}" in said
    assert "  c.yaml, document 1: line 2, column 1" in said
    assert SECRET not in said
    assert "Traceback" not in said


def test_nothing_to_render() -> None:
    done = cli("render", "-f", "-", stdin=yaml.safe_dump(TOKENS))
    assert (done.returncode, done.stderr) == (2, "outrigger: there is no MCPServer in -\n")


def test_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m mcp_operator.cli crds | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


# crds, rbac, run, status


def test_crds_are_those_of_the_repository() -> None:
    done = cli("crds")
    assert done.stdout == (ROOT / "crds" / "outrigger.dev_mcpservers.yaml").read_text()
    assert json.loads(cli("crds", "-o", "json").stdout)["kind"] == "CustomResourceDefinition"


def test_rights_are_for_all_namespaces_or_for_some() -> None:
    everywhere = [content for _, content in load_all(cli("rbac").stdout)]
    kinds = [one["kind"] for one in everywhere]
    assert kinds == ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"]
    said = cli("rbac", "--namespaces", "a,b", "--operator-namespace", "o", "--service-account", "s").stdout
    some = [content for _, content in load_all(said)]
    assert {one["kind"] for one in some} == {"ServiceAccount", "Role", "RoleBinding"}
    assert some[0]["metadata"] == {"name": "s", "namespace": "o"}
    assert [one["metadata"]["namespace"] for one in some if one["kind"] == "Role"] == ["a", "b", "o"]
    subjects = [subject for one in some for subject in one.get("subjects", ())]
    assert all((subject["namespace"], subject["name"]) == ("o", "s") for subject in subjects)


def test_run_tells_everything_wrong_with_its_settings(tmp_path: Path) -> None:
    file = tmp_path / "operator.yaml"
    file.write_text("workers: 0\n")
    environ = {"OUTRIGGER_OPERATOR__LOG__LEVEL": "loud"}
    done = cli("run", "--config", str(file), "--admin-port", "70000", **environ)
    assert done.returncode == 2
    assert f"outrigger: {file}: 3 problems" in done.stderr
    for path in ("workers", "admin.port", "log.level"):
        assert f"  {path}: " in done.stderr


@pytest.mark.parametrize("command", ["status", "run"])
def test_no_cluster_is_said_in_words(command: str, tmp_path: Path) -> None:
    done = cli(command, "--kubeconfig", str(tmp_path / "missing"), OUTRIGGER_OPERATOR__ADMIN__PORT="0")
    assert done.returncode == 2
    assert f"outrigger: there is no kubeconfig {tmp_path}/missing" in done.stderr
    assert "Traceback" not in done.stderr
