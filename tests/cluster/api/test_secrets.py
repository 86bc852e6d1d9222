"""Values of Secrets reach the server, and nothing else: as files of the sidecar, in the environment of its processes.

The sidecars are real ones. What must not be found anywhere is a marker that only the Secret holds.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, ApiError, eventually
from cluster.control_plane import ControlPlane
from cluster.operator_process import OperatorProcess
from cluster.pod_agent import PodAgent
from cluster.secret_search import assert_nowhere, from_secret, key_of, new_marker, objects, process_places, secret
from cluster.servers import KINDS, condition, mcp_server, settled, wait_for
from cluster.sidecars import Sidecar, living, sidecars
from mcp_callers import Caller
from tool_http_server import Answer, Seen, ToolHttpServer

from .conftest import Operators

QUICK_POLL = {"pollInterval": "100ms"}


@pytest.fixture
def marker() -> str:
    """A value that is nowhere else."""
    return new_marker()


@pytest.fixture
def refreshed_pods(real_pods: PodAgent, monkeypatch: pytest.MonkeyPatch) -> PodAgent:
    """Real pods on a node that refreshes the volumes of Secrets often, without being told."""
    monkeypatch.setattr(real_pods, "refresh", 0.3)
    return real_pods


def stdio(**settings: Any) -> dict[str, Any]:
    return {**KINDS["stdio"]["stdio"], **settings}


def variable(sidecar: Sidecar, name: str) -> str | None:
    """What a process of the server has in its environment."""
    value: str | None = json.loads(sidecar.text("env", name=name))
    return value


def versions(api: Api, namespace: str, name: str = "one") -> dict[tuple[str, str], str]:
    server = api.get("mcpservers", namespace, name) or {}
    return {(one["name"], one["key"]): one["version"] for one in (server.get("status") or {}).get("secrets", ())}


def places(api: Api, namespace: str, operator: OperatorProcess, running: list[Sidecar]) -> Iterator[tuple[str, str]]:
    """Everywhere that a value might be seen: (place, text)."""
    yield from objects(api, namespace)
    yield "log of the operator", operator.process.log()
    yield "metrics of the operator", operator.admin("/metrics")[1]
    yield from process_places("the operator", operator.process.pid)
    for sidecar in running:
        yield f"log of {sidecar}", sidecar.process.log()
        for page in ("/status", "/metrics", "/readyz", "/livez"):
            yield f"{page} of {sidecar}", sidecar.admin(page)[1]
        yield from process_places(str(sidecar), sidecar.process.pid)


def test_every_way_to_a_stdio_server(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str, marker: str
) -> None:
    """env, envFrom with a prefix, a mounted file, tokens of callers, a header: nothing of them is seen but by whom."""
    api.create(secret(namespace, "vendor", token=marker, other=f"{marker}-unused"))
    api.create(secret(namespace, "whole", FIRST=f"{marker}-1", SECOND=f"{marker}-2"))
    api.create(secret(namespace, "file", certificate=f"{marker}-file"))
    api.create(secret(namespace, "callers", alice=f"{marker}-alice"))
    api.create(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "plain", "namespace": namespace},
            "data": {"region": "north"},
        }
    )
    region = {"name": "REGION", "valueFrom": {"configMapKeyRef": {"name": "plain", "key": "region"}}}
    api.create(
        mcp_server(
            namespace,
            stdio=stdio(
                env=[from_secret("TOKEN", "vendor", "token"), region],
                envFrom=[{"prefix": "OF_", "secretRef": {"name": "whole"}}],
            ),
            front={"tokens": [{"name": "alice", **key_of("callers", "alice")}]},
            podTemplate={
                "volumes": [{"name": "mine", "secret": {"secretName": "file"}}],
                "sidecar": {"volumeMounts": [{"name": "mine", "mountPath": "/run/mine", "readOnly": True}]},
            },
        )
    )
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    wait_for(api, namespace, "one", "SecretsResolved", "True", "Resolved")
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    caller = sidecar.caller(token=f"{marker}-alice")

    def variable_of(name: str) -> Any:
        return json.loads(caller.text("env", name=name))

    assert variable_of("TOKEN") == marker
    assert variable_of("REGION") == "north"
    assert (variable_of("OF_FIRST"), variable_of("OF_SECOND")) == (f"{marker}-1", f"{marker}-2")
    assert variable_of("FIRST") is None
    root = Path(f"/proc/{sidecar.process.pid}/root/run")
    assert (root / "mine" / "certificate").read_text() == f"{marker}-file"
    assert (root / "outrigger" / "secrets" / "vendor" / "token").read_text() == marker
    assert not (root / "outrigger" / "secrets" / "vendor" / "other").exists(), "only the keys that are named"
    assert sidecar.caller(token="wrong").call("echo").wait().status == 401

    # what the server itself says is not ours to keep, but it does not get into our log
    caller.text("stderr", text=f"connecting with {marker}!")
    eventually(lambda: "connecting with ***!" in sidecar.process.log(), "the server's words")
    api.patch("mcpservers", namespace, "one", {"spec": {"allowedTools": ["echo", "env"]}})
    wait_for(api, namespace, "one", "ConfigApplied", "True", "Applied")
    looked = assert_nowhere(marker, places(api, namespace, operator, [sidecar]))
    assert looked >= {
        "/api/v1 configmaps",
        "/api/v1 events",
        "/apis/outrigger.dev/v1alpha1 mcpservers",
        "log",
        "environ",
    }
    assert marker in Path(f"/proc/{next(iter(sidecar.servers()))}/environ").read_text(), (
        "the search finds what is there"
    )


def test_headers_and_bearer_token_of_a_remote_server(
    api: Api, operator: OperatorProcess, refreshed_pods: PodAgent, namespace: str, marker: str
) -> None:
    """They arrive with every request; a rotation is used by the next ones, in the same process."""
    valid = {("first", "Bearer first")}

    def check(seen: Seen) -> Answer | None:
        shown = tuple(seen.headers.get(name, "").replace(marker, "") for name in ("x-api-key", "authorization"))
        return None if shown in valid else Answer(status=401)

    with ToolHttpServer() as upstream:
        upstream.behave = check
        api.create(secret(namespace, "vendor", key=f"{marker}first", bearer=f"{marker}first"))
        api.create(
            mcp_server(
                namespace,
                kind="remote",
                remote={
                    "url": upstream.url,
                    "headers": [from_secret("X-Api-Key", "vendor", "key")],
                    "bearerToken": key_of("vendor", "bearer"),
                },
                secrets=QUICK_POLL,
            )
        )
        wait_for(api, namespace, "one", "Ready", "True", timeout=60)
        (sidecar,) = sidecars(api, refreshed_pods, namespace, 1)
        before, old = sidecar.identity, versions(api, namespace)
        caller = sidecar.caller()
        assert caller.text("echo", text="x")
        assert upstream.calls("echo")[-1].headers["x-api-key"] == f"{marker}first"
        assert upstream.calls("echo")[-1].headers["authorization"] == f"Bearer {marker}first"

        valid.add(("second", "Bearer second"))
        api.apply(secret(namespace, "vendor", key=f"{marker}second", bearer=f"{marker}second"))

        def rotated() -> bool:
            caller.text("echo", text="x")
            return upstream.calls("echo")[-1].headers["x-api-key"] == f"{marker}second"

        eventually(rotated, "the new header")
        assert upstream.calls("echo")[-1].headers["authorization"] == f"Bearer {marker}second"
        eventually(lambda: set(versions(api, namespace).items()).isdisjoint(old.items()), "new versions")
        assert sidecar.identity == before
        assert_nowhere(marker, places(api, namespace, operator, [sidecar]))
        # the token of a bearer is no header of the callers': without it the upstream refuses
        assert Caller(upstream.url).call("echo").wait().status == 401


def test_a_rotation_is_used_by_new_processes(
    api: Api, operator: OperatorProcess, refreshed_pods: PodAgent, namespace: str, marker: str
) -> None:
    api.create(secret(namespace, "vendor", token=f"{marker}-1"))
    api.create(secret(namespace, "whole", OLD=f"{marker}-old"))
    settings = stdio(env=[from_secret("TOKEN", "vendor", "token")], envFrom=[{"secretRef": {"name": "whole"}}])
    api.create(mcp_server(namespace, stdio=settings, secrets=QUICK_POLL))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (sidecar,) = sidecars(api, refreshed_pods, namespace, 1)
    before, child, first = sidecar.identity, sidecar.text("pid"), versions(api, namespace)
    assert variable(sidecar, "TOKEN") == f"{marker}-1"
    template = (api.get("deployments", namespace, "one") or {})["spec"]["template"]

    api.apply(secret(namespace, "vendor", token=f"{marker}-2"))
    eventually(lambda: variable(sidecar, "TOKEN") == f"{marker}-2", "the new value")
    assert sidecar.text("pid") != child
    # a whole Secret: keys come and go
    api.delete("secrets", namespace, "whole")
    api.create(secret(namespace, "whole", NEW=f"{marker}-new"))
    eventually(lambda: variable(sidecar, "NEW") == f"{marker}-new", "the new key")
    assert variable(sidecar, "OLD") is None
    eventually(lambda: ("whole", "NEW") in versions(api, namespace), "its version")
    assert ("whole", "OLD") not in versions(api, namespace)
    eventually(lambda: versions(api, namespace)["vendor", "token"] != first["vendor", "token"], "another version")

    assert sidecar.identity == before, "nothing of it was restarted"
    assert (api.get("deployments", namespace, "one") or {})["spec"]["template"] == template
    api.apply(secret(namespace, "vendor", token=f"{marker}-1"))
    eventually(lambda: versions(api, namespace)["vendor", "token"] == first["vendor", "token"], "the first version")
    assert_nowhere(marker, places(api, namespace, operator, [sidecar]))


def test_an_http_container_rolls_when_its_environment_changes(
    api: Api, operator: OperatorProcess, pod_agent: PodAgent, namespace: str, marker: str
) -> None:
    """Its image reads variables: the kubelet puts them there, and only new containers have new ones."""
    pod_agent.serve(namespace)
    api.create(secret(namespace, "vendor", token=marker, unused="1"))
    api.create(secret(namespace, "headers", key=marker))
    http = {
        "image": "test.local/server:1",
        "env": [from_secret("TOKEN", "vendor", "token")],
        "headers": [from_secret("X-Api-Key", "headers", "key")],
    }
    api.create(mcp_server(namespace, http=http, kind="http", replicas=2))
    wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
    first = {pod["metadata"]["uid"] for pod in living(api, namespace)}
    assert len(first) == 2
    (server,) = living(api, namespace)[0]["spec"]["initContainers"]
    (token,) = (one for one in server["env"] if one["name"] == "TOKEN")
    assert token == {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "vendor", "key": "token"}}}

    # neither another key of the Secret nor what the sidecar reads from files
    before = versions(api, namespace)
    api.apply(secret(namespace, "vendor", token=marker, unused="2"))
    api.apply(secret(namespace, "headers", key=f"{marker}-2"))
    eventually(lambda: versions(api, namespace)["headers", "key"] != before["headers", "key"], "seen")
    assert {pod["metadata"]["uid"] for pod in living(api, namespace)} == first

    api.apply(secret(namespace, "vendor", token=f"{marker}-2"))
    eventually(lambda: versions(api, namespace)["vendor", "token"] != before["vendor", "token"], "seen")
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete", timeout=60)

    def rolled() -> bool:
        now = {pod["metadata"]["uid"] for pod in living(api, namespace)}
        return len(now) == 2 and now.isdisjoint(first)

    eventually(rolled, "new pods")
    second = {pod["metadata"]["uid"] for pod in living(api, namespace)}
    annotations = {name for pod in living(api, namespace) for name in pod["metadata"]["annotations"].items()}
    checksum = dict(annotations)["outrigger.dev/environment-checksum"]
    assert re.fullmatch("[0-9a-f]{12}", checksum)
    assert len(annotations) == 1, "one for all pods"
    assert_nowhere(marker, places(api, namespace, operator, []))

    # pods that work are not replaced by pods that cannot start
    api.delete("secrets", namespace, "vendor")
    server = wait_for(api, namespace, "one", "SecretsResolved", "False", "SecretMissing")
    assert condition(server, "Available")["status"] == "True"
    wait_for(api, namespace, "one", "Progressing", "True", "RolloutComplete")
    assert {pod["metadata"]["uid"] for pod in living(api, namespace)} == second
    api.create(secret(namespace, "vendor", token=f"{marker}-2"))
    wait_for(api, namespace, "one", "SecretsResolved", "True", "Resolved")
    assert {pod["metadata"]["uid"] for pod in living(api, namespace)} == second, "the same value is no change"


def test_a_secret_that_is_missing_stops_only_its_server(
    api: Api, operator: OperatorProcess, refreshed_pods: PodAgent, namespace: str, marker: str
) -> None:
    settings = stdio(env=[from_secret("TOKEN", "late", "token")])
    api.create(mcp_server(namespace, "needy", stdio=settings, secrets=QUICK_POLL))
    api.create(mcp_server(namespace, "whole"))
    wait_for(api, namespace, "whole", "Ready", "True", timeout=60)
    server = wait_for(api, namespace, "needy", "SecretsResolved", "False", "SecretMissing")
    said = condition(server, "SecretsResolved")["message"]
    assert said == (
        "Secret late does not exist, and spec.stdio.env[TOKEN] needs it; create it: "
        f"kubectl -n {namespace} create secret generic late --from-file=token=FILE"
    )
    assert condition(server, "Ready")["message"] == said

    # its pod runs, and says what it lacks; nobody is sent there
    def waiting() -> Sidecar:
        pods = [
            pod for pod in living(api, namespace) if pod["metadata"]["labels"]["app.kubernetes.io/instance"] == "needy"
        ]
        assert pods
        assert pods[0]["status"].get("podIP")
        return Sidecar(api, refreshed_pods, pods[0])

    sidecar = eventually(waiting, "its pod")

    def unready() -> bool:
        try:
            return sidecar.admin("/readyz")[0] == 503
        except OSError:
            return False

    eventually(unready, "a sidecar that is not ready")
    before = sidecar.identity
    assert condition(api.get("mcpservers", namespace, "needy"), "Available")["status"] == "False"

    api.create(secret(namespace, "late", other="x"))
    server = wait_for(api, namespace, "needy", "SecretsResolved", "False", "KeyMissing")
    assert condition(server, "SecretsResolved")["message"] == (
        "Secret late has no key token, and spec.stdio.env[TOKEN] needs it; add it"
    )
    api.apply(secret(namespace, "late", token=marker))
    wait_for(api, namespace, "needy", "SecretsResolved", "True", "Resolved")
    wait_for(api, namespace, "needy", "Ready", "True", timeout=60)
    assert sidecar.identity == before, "the same pod, without a restart"
    assert variable(sidecar, "TOKEN") == marker

    # gone again while it runs: it serves on, and says so
    api.delete("secrets", namespace, "late")
    server = wait_for(api, namespace, "needy", "SecretsResolved", "False", "SecretMissing")
    wait_for(api, namespace, "whole", "Ready", "True")
    whole = api.get("mcpservers", namespace, "whole")
    assert condition(whole, "SecretsResolved")["reason"] == "NoneNeeded"
    kinds = {
        (one["type"], one["reason"]) for one in api.list("events", namespace) if one["regarding"]["name"] == "needy"
    }
    assert ("Warning", "SecretMissing") in kinds
    assert ("Warning", "KeyMissing") in kinds


def test_a_running_server_outlives_its_secret(
    api: Api, operator: OperatorProcess, refreshed_pods: PodAgent, namespace: str, marker: str
) -> None:
    api.create(secret(namespace, "vendor", token=marker))
    settings = stdio(env=[from_secret("TOKEN", "vendor", "token")])
    api.create(mcp_server(namespace, stdio=settings, secrets=QUICK_POLL))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (sidecar,) = sidecars(api, refreshed_pods, namespace, 1)
    before = sidecar.identity
    api.delete("secrets", namespace, "vendor")
    wait_for(api, namespace, "one", "Ready", "False", "SecretMissing")
    wait_for(api, namespace, "one", "Available", "True", "ReplicasAvailable")
    assert variable(sidecar, "TOKEN") == marker, "what it had"
    api.create(secret(namespace, "vendor", token=f"{marker}-2"))
    wait_for(api, namespace, "one", "Ready", "True", "Ready")
    eventually(lambda: variable(sidecar, "TOKEN") == f"{marker}-2", "the new value")
    assert sidecar.identity == before


def test_versions_tell_nothing(api: Api, operator: OperatorProcess, namespace: str, marker: str) -> None:
    """An HMAC under the key of the MCPServer: equal values of two MCPServers look different."""
    api.create(secret(namespace, "vendor", token="guessable", again="guessable"))
    env = [from_secret("TOKEN", "vendor", "token"), from_secret("AGAIN", "vendor", "again")]
    for name in ("one", "two"):
        api.create(mcp_server(namespace, name, stdio=stdio(env=env)))
    for name in ("one", "two"):
        settled(api, namespace, name)
    mine, theirs = (eventually(lambda name=name: versions(api, namespace, name), "versions") for name in ("one", "two"))
    assert set(mine) == {("vendor", "token"), ("vendor", "again")}
    assert all(re.fullmatch("[0-9a-f]{12}", version) for version in mine.values())
    assert mine != theirs
    for digest in ("sha256", "sha1", "md5"):
        assert not any(version in getattr(hashlib, digest)(b"guessable").hexdigest() for version in mine.values())
    api.apply(secret(namespace, "vendor", token="guessable", again="other"))
    eventually(lambda: versions(api, namespace)["vendor", "again"] != mine["vendor", "again"], "another version")
    assert versions(api, namespace)["vendor", "token"] == mine["vendor", "token"]


def test_a_session_key_of_the_users_own(
    api: Api, operator: OperatorProcess, real_pods: PodAgent, namespace: str
) -> None:
    """It seals the sessions, and the operator makes none."""
    key = uuid.uuid4().hex + uuid.uuid4().hex
    api.create(secret(namespace, "sealing", mine=key))
    sessions = {"keySecretRef": {"name": "sealing", "key": "mine"}}
    api.create(mcp_server(namespace, sessions=sessions))
    wait_for(api, namespace, "one", "Ready", "True", timeout=60)
    (sidecar,) = sidecars(api, real_pods, namespace, 1)
    assert api.get("secrets", namespace, "one-session") is None
    caller = sidecar.caller(version="2025-06-18").open()
    assert caller.session is not None
    assert json.loads(caller.text("echo", text="x")) == {"text": "x"}
    mounted = Path(f"/proc/{sidecar.process.pid}/root/run/outrigger/session/key")
    assert mounted.read_text() == key
    assert_nowhere(key, places(api, namespace, operator, [sidecar]))


def test_the_operator_reads_only_secrets_that_are_named(
    control_plane: ControlPlane, operator: OperatorProcess, operators: Operators, namespace: str, marker: str
) -> None:
    api = control_plane.api
    mark = control_plane.audit_mark()
    api.create(secret(namespace, "vendor", token=marker))
    api.create(secret(namespace, "somebody-elses", token=marker))
    api.create(mcp_server(namespace, stdio=stdio(env=[from_secret("TOKEN", "vendor", "token")])))
    wait_for(api, namespace, "one", "SecretsResolved", "True", "Resolved")
    asked = {
        (one.verb, one.name)
        for one in control_plane.audit(mark)
        if one.resource == "secrets"
        # what is asked of the whole cluster has none; others have MCPServers of other tests, which may still go
        and one.namespace in (namespace, "")
        and one.user.endswith(":outrigger-operator")
    }
    # the name of what is created is in the body, which the audit log has not
    assert {(verb, name) for verb, name in asked if verb != "create"} == {("get", "vendor"), ("get", "one-session")}
    assert {verb for verb, _ in asked} == {"get", "create"}

    theirs = operators.access.api()
    where = f"/api/v1/namespaces/{namespace}/secrets"
    refused = [
        ("GET", where, None),
        ("GET", "/api/v1/secrets", None),
        ("GET", f"{where}?watch=true&timeoutSeconds=1", None),
        ("DELETE", f"{where}/vendor", None),
        ("DELETE", where, None),
        ("PUT", f"{where}/vendor", secret(namespace, "vendor")),
    ]
    for method, target, body in refused:
        with pytest.raises(ApiError) as caught:
            theirs.request(method, target, body)
        assert caught.value.status == 403, (method, target)
    with pytest.raises(ApiError) as caught:
        theirs.apply(secret(namespace, "vendor", token="ours"))
    assert caught.value.status == 403
