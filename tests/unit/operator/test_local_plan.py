"""What an MCPServer becomes on one machine: config, variables, files, and what of it needs a new process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mcp_operator.config import OperatorConfig
from mcp_operator.documents import Document, Documents
from mcp_operator.local_plan import CannotRunError, LocalPlan, plan
from mcp_sidecar.config import ConfigError

HERE = "/run/user/1/up/default.notes"


def document(kind: str, name: str, **content: Any) -> Document:
    group = "outrigger.dev/v1alpha1" if kind == "MCPServer" else "v1"
    whole = {"apiVersion": group, "kind": kind, "metadata": {"name": name, "namespace": "default"}, **content}
    return Document("file.yaml", 1, 1, whole)


def planned(spec: dict[str, Any], *others: Document, **options: Any) -> LocalPlan:
    secrets = {("default", one.name): one for one in others if one.kind == "Secret"}
    config_maps = {("default", one.name): one for one in others if one.kind == "ConfigMap"}
    server = document("MCPServer", "notes", spec=spec)
    documents = Documents(servers=(server,), secrets=secrets, config_maps=config_maps)
    return plan(server, documents, OperatorConfig(), **options)


def config(found: LocalPlan) -> dict[str, Any]:
    placed: dict[str, Any] = json.loads(found.placed(HERE))
    return placed


def secret(name: str, **data: str) -> Document:
    return document("Secret", name, stringData=data)


def key(name: str, key: str, kind: str = "secret") -> dict[str, Any]:
    return {f"{kind}KeyRef": {"name": name, "key": key}}


STDIO = {"stdio": {"command": "npx"}}


def test_files_are_in_the_folder() -> None:
    spec = {
        "stdio": {
            "command": "npx",
            "args": ["/run/outrigger/secrets/x"],
            "env": [{"name": "A", "valueFrom": key("s", "a")}, {"name": "B", "valueFrom": key("m", "b", "configMap")}],
            "envFrom": [{"secretRef": {"name": "all"}}],
        },
        "front": {"tls": {"secretName": "t", "clientCA": key("m", "ca", "configMap")}},
        "secrets": {"encryptionKey": key("s", "fernet")},
    }
    others = [
        secret("s", a="1", fernet="2", unused="3"),
        secret("all", x="4", y="5"),
        secret("t", **{"tls.crt": "6", "tls.key": "7", "ca.crt": "8"}),
        document("ConfigMap", "m", data={"b": "9", "ca": "10"}),
    ]
    found = planned(spec, *others)
    assert found.missing == ()
    assert found.files == {
        "secrets/s/a": b"1",
        "secrets/s/fernet": b"2",
        "secrets/all/x": b"4",
        "secrets/all/y": b"5",
        "secrets/t/tls.crt": b"6",
        "secrets/t/tls.key": b"7",
        "configmaps/m/b": b"9",
        "configmaps/m/ca": b"10",
    }
    made = config(found)
    server = made["servers"]["notes"]
    assert server["env"]["A"] == {"valueFrom": {"file": f"{HERE}/secrets/s/a"}}
    assert server["envFrom"] == [{"directory": f"{HERE}/secrets/all"}]
    assert server["args"] == ["/run/outrigger/secrets/x"]  # an argument is nobody's file but the server's
    assert made["front"]["tls"] == {
        "certFile": f"{HERE}/secrets/t/tls.crt",
        "keyFile": f"{HERE}/secrets/t/tls.key",
        "clientCaFile": f"{HERE}/configmaps/m/ca",
    }
    assert made["secrets"]["keyFile"] == f"{HERE}/secrets/s/fernet"
    assert made["sessions"]["keyFile"] == f"{HERE}/session/key"
    assert made["sessions"]["stateDirectory"].startswith(HERE)
    assert {"localhost", "127.0.0.1"} <= set(made["front"]["allowedHosts"])
    assert found.scheme == "https"


def test_values_are_not_shown() -> None:
    spec = {"stdio": {"command": "x", "env": [{"name": "A", "valueFrom": key("s", "a")}]}}
    found = planned(spec, secret("s", a="canary"))
    assert found.files["secrets/s/a"] == b"canary"
    assert "canary" not in repr(found)
    assert "canary" not in found.config


def test_bearer_token_and_own_variables_are_the_sidecars() -> None:
    spec = {
        "remote": {"url": "https://x.example/mcp", "bearerToken": key("s", "t")},
        "podTemplate": {"sidecar": {"env": [{"name": "HTTPS_PROXY", "value": "http://p.example:$(X)"}]}},
    }
    found = planned(spec, secret("s", t="1"))
    assert found.environment(HERE) == {
        "MCP_TOKEN_NOTES_FILE": f"{HERE}/secrets/s/t",
        "HTTPS_PROXY": "http://p.example:$(X)",
    }


def test_session_key_of_the_user_is_used() -> None:
    found = planned({**STDIO, "sessions": {"keySecretRef": {"name": "s", "key": "k"}}}, secret("s", k="0" * 32))
    assert found.files["session/key"] == b"0" * 32


def test_what_is_missing_is_told() -> None:
    env = [{"name": "A", "valueFrom": key("no", "a")}, {"name": "B", "valueFrom": key("s", "b")}]
    found = planned({"stdio": {"command": "x", "env": env}}, secret("s", a="1"))
    assert found.missing == (
        "there is no Secret no in the files, for stdio.env[A]",
        "the Secret s has no key b, for stdio.env[B]",
    )


def test_volumes_of_the_pod_are_not_here() -> None:
    mount = {"name": "v", "mountPath": "/data"}
    template = {"volumes": [{"name": "v", "secret": {"secretName": "no"}}], "sidecar": {"volumeMounts": [mount]}}
    found = planned({**STDIO, "podTemplate": template})
    assert found.missing == ()
    assert found.notes == ("podTemplate.volumes has no effect here",)


def test_mistakes_are_told_with_their_place() -> None:
    with pytest.raises(ConfigError) as caught:
        planned({"stdio": {"comand": "x"}})
    assert all(path == "file.yaml, document 1 (MCPServer notes)" for path, _ in caught.value.problems)


# Images

IMAGE = {"stdio": {"command": "x", "image": "i:1", "workingDir": "/srv", "env": [{"name": "A", "value": "own"}]}}


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"http": {"image": "i:1", "port": 9000}}, "add --server notes=http://127.0.0.1:9000/mcp"),
        (IMAGE, "add --without-images"),
        (IMAGE, "--server notes=http://127.0.0.1:8000/mcp"),
    ],
)
def test_image_cannot_run_here(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(CannotRunError, match=said):
        planned(spec)


def test_bad_spec_is_told_before_its_image() -> None:
    with pytest.raises(ConfigError):
        planned({"http": {"image": "i:1", "prt": 1}})


def test_stand_in_keeps_what_is_said_of_the_server() -> None:
    spec = {
        "http": {"image": "i:1", "transport": "SSE", "headers": [{"name": "X", "valueFrom": key("s", "a")}]},
        "timeouts": {"timeout": "7s"},
        "podTemplate": {"server": {"securityContext": {"runAsUser": 1}}},
    }
    found = planned(spec, secret("s", a="1"), stand_in="http://127.0.0.1:1/mcp")
    assert found.kind == "http"
    server = config(found)["servers"]["notes"]
    assert (server["url"], server["transport"], server["timeout"]) == ("http://127.0.0.1:1/mcp", "SSE", "7s")
    assert server["headers"] == {"X": {"valueFrom": {"file": f"{HERE}/secrets/s/a"}}}


def test_stand_in_for_a_remote_keeps_its_credentials() -> None:
    spec = {"remote": {"url": "https://x.example/mcp", "bearerToken": key("s", "t")}}
    found = planned(spec, secret("s", t="1"), stand_in="http://127.0.0.1:1/mcp")
    assert config(found)["servers"]["notes"]["url"] == "http://127.0.0.1:1/mcp"
    assert list(found.environ) == ["MCP_TOKEN_NOTES_FILE"]


def test_command_without_its_image() -> None:
    template = {"server": {"env": [{"name": "A", "value": "theirs"}, {"name": "B", "value": "more"}]}}
    found = planned({**IMAGE, "podTemplate": template}, without_images=True)
    server = config(found)["servers"]["notes"]
    assert (server["command"], server["env"]) == ("x", {"A": "own", "B": "more"})
    assert "workingDir" not in server
    assert "socket" not in server


# What needs a new process


@pytest.mark.parametrize(
    ("changed", "anew"),
    [
        ({"timeouts": {"timeout": "9s"}}, False),
        ({"deniedTools": ["x"]}, False),
        ({"log": {"level": "Debug"}}, False),
        ({"replicas": 3}, False),
        ({"stdio": {"command": "other"}}, True),
        ({"stdio": {"command": "npx", "processes": 2}}, True),
        ({"front": {"tls": {"secretName": "t"}}}, True),
        ({"sessions": {"keySecretRef": {"name": "s", "key": "k"}}}, True),
        ({"podTemplate": {"sidecar": {"env": [{"name": "A", "value": "b"}]}}}, True),
    ],
)
def test_what_rolls_pods_needs_a_new_process(changed: dict[str, Any], anew: bool) -> None:
    assert (planned(STDIO).generation != planned({**STDIO, **changed}).generation) is anew
