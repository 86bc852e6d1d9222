"""The containers of a pod, what they see, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from desired_goldens import CLUSTER, IMAGES, object_of, server, wanted
from mcp_operator.api.v1alpha1 import MCPServer, parse
from mcp_operator.desired import Images, Reference, desired, environment_references, session_secret, session_secret_name
from mcp_operator.desired.needs import references


def made(**spec: Any) -> MCPServer:
    metadata = {"name": "brave-search", "namespace": "tools", "uid": "u"}
    shell = {"apiVersion": "outrigger.dev/v1alpha1", "kind": "MCPServer", "metadata": metadata}
    return parse({**shell, "spec": {"stdio": {"command": "x"}, **spec}})


def pod(images: Images = IMAGES, checksum: str = "", **spec: Any) -> dict[str, Any]:
    found = desired(made(**spec), CLUSTER, images, checksum=checksum)
    template: dict[str, Any] = object_of(found, "Deployment")["spec"]["template"]["spec"]
    return template


def container(spec: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (each for each in (*spec.get("initContainers", ()), *spec["containers"]) if each["name"] == name)
    return found


def environment(found: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in found.get("env", ())}


def golden(name: str) -> dict[str, Any]:
    template: dict[str, Any] = object_of(wanted(name), "Deployment")["spec"]["template"]["spec"]
    return template


@pytest.mark.parametrize(
    "name, init",
    [
        ("stdio", []),
        ("stdio-secrets", []),
        ("stdio-image", ["bridge", "server"]),
        ("http", ["server"]),
        ("remote", []),
    ],
)
def test_containers_of_each_kind(name: str, init: list[str]) -> None:
    spec = golden(name)
    assert [each["name"] for each in spec["containers"]] == ["sidecar"]
    assert [each["name"] for each in spec.get("initContainers", ())] == init
    # Only the server goes on running, so it is stopped after the sidecar.
    assert [each["name"] for each in spec.get("initContainers", ()) if each.get("restartPolicy") == "Always"] == [
        each for each in init if each == "server"
    ]
    image = "sidecar-runtime" if name in ("stdio", "stdio-secrets") else "sidecar"
    assert spec["containers"][0]["image"] == f"outrigger.local/{image}:0.1.0"


@pytest.mark.parametrize("name", ["stdio-image", "http"])
def test_server_starts_without_a_probe(name: str) -> None:
    assert not [key for key in container(golden(name), "server") if key.endswith("Probe")]


def test_probes_ask_the_admin_port() -> None:
    found = container(golden("stdio"), "sidecar")
    paths = {name: found[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    assert {found[f"{name}Probe"]["httpGet"]["port"] for name in paths} == {"admin"}
    seconds = found["startupProbe"]["periodSeconds"] * found["startupProbe"]["failureThreshold"]
    assert seconds >= 60


def test_ports_are_those_of_the_front() -> None:
    found = container(golden("remote"), "sidecar")
    assert [(port["name"], port["containerPort"]) for port in found["ports"]] == [("mcp", 8443), ("admin", 9191)]


@pytest.mark.parametrize("grace, seconds", [("25s", 40), ("500ms", 16), ("0s", 15), ("90s", 105)])
def test_pod_is_killed_only_after_the_drain(grace: str, seconds: int) -> None:
    spec = pod(shutdown={"gracePeriod": grace})
    assert spec["terminationGracePeriodSeconds"] == seconds
    assert container(spec, "sidecar")["lifecycle"] == {"preStop": {"sleep": {"seconds": 5}}}


def test_sidecar_knows_its_address() -> None:
    found = container(golden("stdio"), "sidecar")
    names = [each["name"] for each in found["env"]]
    assert names.index("POD_IP") < names.index("OUTRIGGER__SESSIONS__ADDRESS")  # it can only refer to what is before
    assert environment(found)["OUTRIGGER__SESSIONS__ADDRESS"] == "$(POD_IP)"


def test_bearer_token_is_a_file() -> None:
    spec = pod(
        stdio=None,
        remote={"url": "https://a.example/mcp", "bearerToken": {"secretKeyRef": {"name": "a", "key": "token"}}},
    )
    found = environment(container(spec, "sidecar"))
    assert found["MCP_TOKEN_BRAVE_SEARCH_FILE"] == "/run/outrigger/secrets/a/token"


def test_no_secret_is_in_the_environment_of_the_sidecar() -> None:
    for name in ("stdio", "stdio-secrets", "stdio-image", "http", "remote"):
        for each in container(golden(name), "sidecar")["env"]:
            assert "valueFrom" not in each or "fieldRef" in each["valueFrom"]


def test_home_of_a_command_can_be_written() -> None:
    found = container(golden("stdio"), "sidecar")
    assert environment(found)["HOME"] == "/home/outrigger"
    assert {"name": "home", "mountPath": "/home/outrigger"} in found["volumeMounts"]
    assert "HOME" not in environment(container(golden("remote"), "sidecar"))


def test_home_may_be_the_users() -> None:
    found = container(golden("stdio-secrets"), "sidecar")
    assert [each["name"] for each in found["volumeMounts"] if each["mountPath"] == "/home/outrigger"] == ["downloads"]
    own = pod(podTemplate={"sidecar": {"env": [{"name": "HOME", "value": "/tmp"}]}})
    assert environment(container(own, "sidecar"))["HOME"] == "/tmp"


def test_bridge_runs_the_command() -> None:
    found = container(golden("stdio-image"), "server")
    assert found["command"] == ["/run/outrigger/bridge/outrigger-bridge"]
    arguments = found["args"]
    own, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    # The kubelet would replace $(pretty); nobody replaces ${raw}.
    assert command == ["/usr/local/bin/git-mcp", "--root", "/repositories", "--format", "$$(pretty) $${raw}"]
    pairs = list(zip(own[1::2], own[2::2], strict=True))
    assert own[0] == "serve"
    assert pairs == [
        ("--socket", "/run/outrigger/socket/mcp.sock"),
        ("--keep", "PROXY"),
        ("--env", "PROXY_PASSWORD=/run/outrigger/secrets/proxy/password"),
        ("--keep", "MODE"),
        ("--env", "TOKEN=/run/outrigger/secrets/git/token"),
        ("--env", "REGION=/run/outrigger/configmaps/site/region"),
        ("--env-from", "/run/outrigger/secrets/git-extra=GIT_"),
        ("--env-from", "/run/outrigger/configmaps/git-settings"),
        ("--dir", "/repositories"),
        ("--max-processes", "1100"),
    ]
    assert environment(found) == {"PROXY": "http://proxy.$(MODE)", "MODE": "$$(plain)"}


@pytest.mark.parametrize("text", ["plain", "$5", "a$", "$(A)", "$$(A)", "$$", "$(", "${A}", "$$$(A)$"])
def test_literals_mean_themselves_to_the_kubelet(text: str) -> None:
    stdio = {"command": "x", "image": "i", "args": [text], "env": [{"name": "A", "value": text}]}
    found = container(pod(stdio=stdio), "server")
    assert expanded(found["args"][-1]) == text
    assert expanded(environment(found)["A"]) == text


def expanded(text: str) -> str:
    """What the kubelet makes of `text` where every variable has the value `?` (k8s.io/kubernetes/third_party/forked/
    golang/expansion, as documented for `command` and `args` of containers)."""
    out, index = "", 0
    while index < len(text):
        rest = text[index:]
        if rest.startswith("$$"):
            out, index = out + "$", index + 2
        elif rest.startswith("$(") and ")" in rest:
            out, index = out + "?", index + rest.index(")") + 1
        else:
            out, index = out + text[index], index + 1
    return out


def test_bridge_is_bound_by_nothing_that_changes_live() -> None:
    one, two = (
        pod(stdio={"command": "x", "image": "i", "isolation": "PerSession", "maxSessions": most}) for most in (4, 1024)
    )
    assert container(one, "server") == container(two, "server")
    assert int(container(one, "server")["args"][4]) > 1024
    shared = container(pod(stdio={"command": "x", "image": "i", "processes": 8}), "server")
    assert 2 * 8 <= int(shared["args"][4]) <= 32


def test_http_has_the_plain_meaning_of_a_container() -> None:
    found = container(golden("http"), "server")
    assert found["args"] == ["--bind", "127.0.0.1:$(PORT)"]
    assert found["workingDir"] == "/app"
    assert environment(found)["PORT"] == "3000"  # http.env wins over podTemplate.server.env
    assert environment(found)["INDEX_KEY"] == {"secretKeyRef": {"name": "index", "key": "api-key"}}
    assert environment(found)["CACHE"] == {"configMapKeyRef": {"name": "index", "key": "cache"}}
    assert found["envFrom"] == [{"prefix": "DB_", "secretRef": {"name": "database"}}]
    assert found["securityContext"]["runAsUser"] == 4711
    assert found["securityContext"]["readOnlyRootFilesystem"] is False


@pytest.mark.parametrize(
    "resources, found",
    [
        (None, {"requests": {"cpu": "100m", "memory": "128Mi"}}),
        ({"requests": {"cpu": 1}}, {"requests": {"cpu": "1", "memory": "128Mi"}}),
        # A default request above the limit would be refused; Kubernetes takes the limit as the request.
        ({"limits": {"memory": "32Mi"}}, {"limits": {"memory": "32Mi"}, "requests": {"cpu": "100m"}}),
        ({"limits": {"memory": "1Gi", "cpu": "2"}}, {"limits": {"memory": "1Gi", "cpu": "2"}}),
    ],
)
def test_resources(resources: dict[str, Any] | None, found: dict[str, Any]) -> None:
    template = {} if resources is None else {"podTemplate": {"sidecar": {"resources": resources}}}
    assert container(pod(**template), "sidecar")["resources"] == found


def test_each_container_sees_the_keys_that_it_needs_and_no_others() -> None:
    spec = golden("stdio-image")
    volumes = {each["name"]: each.get("secret") for each in spec["volumes"]}

    def keys(name: str) -> list[str]:
        (volume,) = (
            volumes[each["name"]]
            for each in container(spec, name)["volumeMounts"]
            if each["mountPath"] == "/run/outrigger/secrets/git"
        )
        return [item["key"] for item in volume["items"]]

    assert keys("server") == ["token"]
    assert keys("sidecar") == ["ci-token"]


def test_a_missing_secret_keeps_a_pod_from_starting_only_where_it_must() -> None:
    optional = {
        each["secret"]["secretName"]: each["secret"]["optional"]
        for each in golden("remote")["volumes"]
        if each["name"].startswith("secret-")
    }
    assert optional == {
        "callers": False,  # the CA of callers
        "vendor-api-tls": False,
        "fernet": True,
        "vendor": True,
        "vendor-client": True,
    }


def test_whole_objects_are_mounted_whole_and_keys_once() -> None:
    stdio = {
        "command": "x",
        "env": [
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "a", "key": "one"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "a", "key": "one"}}},
            {"name": "C", "valueFrom": {"secretKeyRef": {"name": "b", "key": "two"}}},
        ],
        "envFrom": [{"secretRef": {"name": "b"}}],
    }
    volumes = {each["name"]: each for each in pod(stdio=stdio)["volumes"]}
    assert volumes["secret-0"]["secret"]["items"] == [{"key": "one", "path": "one"}]
    assert "items" not in volumes["secret-1"]["secret"]


def test_a_seccomp_profile_of_the_pod_holds_for_its_containers() -> None:
    profile = {"type": "Localhost", "localhostProfile": "a.json"}
    own = {"type": "RuntimeDefault"}
    spec = pod(
        stdio={"command": "x", "image": "i"},
        podTemplate={
            "securityContext": {"seccompProfile": profile},
            "server": {"securityContext": {"seccompProfile": own}},
        },
    )
    found = {
        name: container(spec, name)["securityContext"]["seccompProfile"] for name in ("server", "sidecar", "bridge")
    }
    assert found == {"server": own, "sidecar": profile, "bridge": profile}


def test_spread_over_zones_and_hosts_unless_the_user_says_otherwise() -> None:
    keys = [each["topologyKey"] for each in pod()["topologySpreadConstraints"]]
    assert keys == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    assert "topologySpreadConstraints" not in pod(podTemplate={"topologySpreadConstraints": []})
    (own,) = golden("everything")["topologySpreadConstraints"]
    assert own["topologyKey"] == "rack"
    assert own["labelSelector"]["matchLabels"]["app.kubernetes.io/instance"] == "everything"


def test_images_are_pulled_as_the_operator_is_configured() -> None:
    spec = pod(Images(sidecar_runtime="r", pull_secrets=("a", "b")), podTemplate={"imagePullSecrets": [{"name": "b"}]})
    assert "imagePullPolicy" not in container(spec, "sidecar")
    assert spec["imagePullSecrets"] == [{"name": "a"}, {"name": "b"}]
    assert container(golden("everything"), "server")["imagePullPolicy"] == "Always"


def test_labels_of_the_user_never_replace_ours() -> None:
    server = made(podTemplate={"labels": {"team": "blue"}})
    template = object_of(desired(server, CLUSTER, IMAGES), "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"]["team"] == "blue"
    # As the rules of the CRD may be older than the operator:
    labels = {"app.kubernetes.io/instance": "other"}
    unchecked = MCPServer.model_validate(
        {"metadata": {"name": "n"}, "spec": {"stdio": {"command": "x"}, "podTemplate": {"labels": labels}}}
    )
    template = object_of(desired(unchecked, CLUSTER, IMAGES), "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "n"


def test_without_a_cluster_nobody_owns_anything() -> None:
    server = parse(
        {
            "apiVersion": "outrigger.dev/v1alpha1",
            "kind": "MCPServer",
            "metadata": {"name": "n"},
            "spec": {"stdio": {"command": "x"}},
        }
    )
    assert all("ownerReferences" not in each["metadata"] for each in desired(server, CLUSTER, IMAGES).manifests)


def test_session_key_of_the_operator_and_of_the_user() -> None:
    assert session_secret_name(server("stdio")) == "time-session"
    assert "data" not in session_secret(server("stdio"))
    assert session_secret_name(server("remote")) == "shared-session-key"
    (volume,) = (each for each in golden("remote")["volumes"] if each["name"] == "session")
    assert volume["secret"]["secretName"] == "shared-session-key"
    assert volume["secret"]["items"] == [{"key": "seal", "path": "key"}]
    assert "optional" not in volume["secret"]


def test_references_name_each_key_and_the_field_that_needs_it() -> None:
    assert references(server("stdio-image")) == (
        Reference("Secret", "git", "token", "stdio.env[TOKEN]"),
        Reference("ConfigMap", "site", "region", "stdio.env[REGION]"),
        Reference("Secret", "git-extra", None, "stdio.envFrom[0]"),
        Reference("ConfigMap", "git-settings", None, "stdio.envFrom[1]"),
        Reference("Secret", "git-tls", "tls.crt", "front.tls"),
        Reference("Secret", "git-tls", "tls.key", "front.tls"),
        Reference("Secret", "git", "ci-token", "front.tokens[ci]"),
        Reference("Secret", "proxy", "password", "podTemplate.server.env[PROXY_PASSWORD]"),
    )
    assert [each.used_for for each in references(server("remote"))] == [
        "remote.headers[X-Signature]",
        "remote.headers[X-Region]",
        "remote.bearerToken",
        "remote.tls.caCertificate",
        "remote.tls.clientCertificate",
        "remote.tls.clientCertificate",
        "sessions.keySecretRef",
        "front.tls",
        "front.tls",
        "front.tls.clientCA",
        "front.tokens[shop]",
        "front.tokens[ops]",
        "secrets.encryptionKey",
    ]


def test_only_values_in_the_environment_need_new_pods() -> None:
    assert environment_references(server("stdio-image")) == ()
    assert {each.used_for for each in environment_references(server("http"))} == {
        "http.env[INDEX_KEY]",
        "http.env[INDEX_NAME]",
        "http.envFrom[0]",
        "podTemplate.server.env[CACHE]",
    }


def test_volumes_of_the_user_are_needed_unless_they_are_optional() -> None:
    assert references(server("everything")) == (
        Reference("ConfigMap", "settings", "a.toml", "podTemplate.volumes[settings]"),
        Reference("Secret", "one", "k", "podTemplate.volumes[mixed]"),
        Reference("ConfigMap", "two", None, "podTemplate.volumes[mixed]"),
    )


def test_optional_volumes_of_the_user_are_not_needed() -> None:
    sources = [{"secret": {"name": "s", "optional": True}}, {"configMap": {"name": "c", "optional": True}}]
    volumes = [
        {"name": "a", "secret": {"secretName": "s", "optional": True}},
        {"name": "b", "configMap": {"name": "c", "optional": True}},
        {"name": "c", "projected": {"sources": sources}},
    ]
    assert references(made(podTemplate={"volumes": volumes})) == ()


def test_volumes_of_the_user_hold_nothing_that_the_api_server_would_drop() -> None:
    volumes = [
        {"name": "a", "emptyDir": {"medium": "", "sizeLimit": 1024}},
        {"name": "b", "secret": {"secretName": "s", "items": []}},
        {"name": "c", "ephemeral": {"volumeClaimTemplate": {"metadata": None, "spec": {"resources": {}}}}},
    ]
    assert pod(podTemplate={"volumes": volumes})["volumes"][-3:] == [
        {"name": "a", "emptyDir": {"sizeLimit": "1024"}},
        {"name": "b", "secret": {"secretName": "s"}},
        {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {}}}}},
    ]
