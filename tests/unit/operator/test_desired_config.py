"""The sidecar's config of an MCPServer, and the ConfigMap that holds it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from desired_goldens import CLUSTER, IMAGES, server, wanted
from mcp_operator.api.v1alpha1 import MCPServer, parse
from mcp_operator.desired import Cluster, desired
from mcp_operator.desired.config import literal
from mcp_sidecar.config import Value


def made(**spec: Any) -> MCPServer:
    metadata = {"name": "time", "namespace": "tools", "uid": "u"}
    shell = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "metadata": metadata}
    return parse({**shell, "spec": {"stdio": {"command": "x"}, **spec}})


def config(**spec: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(desired(made(**spec), CLUSTER, IMAGES).config_json)
    return found


def own(**spec: Any) -> dict[str, Any]:
    """The server's part of the config."""
    found: dict[str, Any] = config(**spec)["servers"]["time"]
    return found


@given(st.text(alphabet="$${}ab(") | st.text())
def test_literals_mean_themselves_to_the_sidecar(text: str) -> None:
    if "\0" in text or text.startswith("fernet:v1:"):
        return
    value = Value.parse(literal(text))
    assert value.literal
    assert "".join(str(part) for part in value.parts) == text


def test_sealed_values_are_passed_on() -> None:
    assert literal("fernet:v1:gAAAA") == "fernet:v1:gAAAA"


def test_command_without_image_is_the_sidecars() -> None:
    found = json.loads(wanted("stdio-secrets").config_json)["servers"]["mail"]
    assert found["command"] == "npx"
    assert found["workingDir"] == "/home/outrigger/work"
    assert found["env"] == {
        "MODE": "$${plain}",
        "SEALED": "fernet:v1:gAAAAABsealed",
        "PASSWORD": {"valueFrom": {"file": "/run/outrigger/secrets/mail/password"}},
        "HOST": {"valueFrom": {"file": "/run/outrigger/configmaps/mail/host"}},
    }
    assert found["envFrom"] == [
        {"directory": "/run/outrigger/secrets/mail-extra", "prefix": "MAIL_"},
        {"directory": "/run/outrigger/configmaps/mail-settings"},
    ]
    assert found["startTimeout"] == "3m"


def test_command_with_image_is_the_bridges() -> None:
    found = json.loads(wanted("stdio-image").config_json)["servers"]["git-mirror"]
    assert found == {
        "socket": "/run/outrigger/socket/mcp.sock",
        "transport": "Stdio",
        "isolation": "PerSession",
        "processes": 1,
        "maxSessions": 8,
    }


def test_http_is_reached_inside_the_pod() -> None:
    found = json.loads(wanted("http").config_json)["servers"]["search"]
    assert found["url"] == "http://127.0.0.1:3000/search/mcp"
    assert found["transport"] == "SSE"
    assert found["credentials"] == "Forward"
    assert found["headers"]["X-Api-Key"] == {"valueFrom": {"file": "/run/outrigger/secrets/index/api-key"}}
    assert "env" not in found  # they are the container's


def test_remote_with_tls() -> None:
    found = json.loads(wanted("remote").config_json)["servers"]["vendor-api"]
    assert found["allowLinkLocal"] is True
    assert found["tls"] == {
        "caFile": "/run/outrigger/configmaps/vendor-ca/ca.pem",
        "certFile": "/run/outrigger/secrets/vendor-client/tls.crt",
        "keyFile": "/run/outrigger/secrets/vendor-client/tls.key",
        "serverName": "mcp.internal",
        "verify": False,
    }
    assert found["sessions"] == "Stateless"
    assert "Authorization" not in found["headers"]  # the bearer token comes by MCP_TOKEN_…_FILE


def test_tls_that_says_nothing_is_left_out() -> None:
    found = own(stdio=None, remote={"url": "https://a.example/mcp", "tls": {"verification": "Verify"}})
    assert "tls" not in found


def test_front_and_sessions_and_secrets() -> None:
    found = json.loads(wanted("remote").config_json)
    assert found["front"]["tls"] == {
        "certFile": "/run/outrigger/secrets/vendor-api-tls/tls.crt",
        "keyFile": "/run/outrigger/secrets/vendor-api-tls/tls.key",
        "clientCaFile": "/run/outrigger/secrets/callers/ca.crt",
    }
    assert [token["name"] for token in found["front"]["tokens"]] == ["shop", "ops"]
    assert found["front"]["tokens"][0]["file"] == "/run/outrigger/secrets/callers/shop"
    # Whatever the key is called in the user's Secret, it is one file in the pod.
    assert found["sessions"]["keyFile"] == "/run/outrigger/session/key"
    assert found["sessions"]["lifetime"] == "12h"
    assert found["secrets"] == {
        "keyFile": "/run/outrigger/secrets/fernet/keys",
        "pollInterval": "2s",
        "require": "SealedOrFile",
    }


def test_policies_keep_their_names_and_values() -> None:
    spec, found = server("everything").spec, json.loads(wanted("everything").config_json)
    for name in ("retry", "circuitBreaker", "pool", "limits", "cache", "health"):
        assert name in found["servers"]["everything"], name
    assert found["servers"]["everything"]["limits"]["maxResponseBytes"] == "32MiB"
    assert found["servers"]["everything"]["cache"]["tools"] == {"search": "30s"}
    assert found["servers"]["everything"]["deniedTools"] == ["search_private"]
    assert found["shutdown"] == {"gracePeriod": "90s"}
    assert found["audit"]["onFull"] == "Block"
    assert spec.timeouts is not None
    assert found["servers"]["everything"]["totalTimeout"] == "2m"


def test_what_has_no_effect_on_the_kind_is_left_out() -> None:
    assert {"credentials", "pool", "connectTimeout", "maxSessions", "headers", "tls"}.isdisjoint(own())
    remote = own(stdio=None, remote={"url": "https://a.example/mcp"})
    assert {"isolation", "processes", "startTimeout", "restart", "stop"}.isdisjoint(remote)


def test_hosts_are_the_services_names_and_the_users() -> None:
    hosts = config(service={"allowedHosts": ["mcp.example", "localhost", "*"]})["front"]["allowedHosts"]
    assert hosts == [
        "time",
        "time.tools",
        "time.tools.svc",
        "time.tools.svc.cluster.local",
        "10.96.0.7",
        "[fd00::7]",
        "localhost",
        "127.0.0.1",
        "[::1]",
        "mcp.example",
        "*",
    ]


def test_hosts_follow_the_domain_of_the_cluster() -> None:
    found = desired(made(), Cluster(domain="k8s.example"), IMAGES)
    assert "time.tools.svc.k8s.example" in json.loads(found.config_json)["front"]["allowedHosts"]
    assert found.url == "http://time.tools.svc.k8s.example:8080/mcp"


def test_url_says_https_and_the_port_of_the_service() -> None:
    found = desired(made(front={"tls": {"secretName": "t"}}, service={"port": 443}), CLUSTER, IMAGES)
    assert found.url == "https://time.tools.svc.cluster.local:443/mcp"


def test_hash_is_that_which_the_sidecar_reports() -> None:
    found = wanted("http")
    assert found.config_hash == hashlib.sha256(found.config_json.encode()).hexdigest()[:16]


def test_text_is_sorted_and_readable() -> None:
    text = wanted("http").config_json
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
