"""Secrets through a real kubelet: how a new value reaches what needs it, and that nobody else ever sees one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.api import Api, ApiError, eventually
from cluster.deployed import Deployed, container_ids, deploy, names, page, processes, restarts, server_processes
from cluster.secret_search import assert_nowhere, from_secret, key_of, new_marker, objects, process_places, secret
from cluster.sidecars import living
from cluster.steady_load import SteadyLoad
from tool_http_server import Answer, Seen, ToolHttpServer

from .conftest import Installed

ROTATIONS = 5
POLL = {"pollInterval": "500ms"}


@pytest.fixture
def marker() -> str:
    """A value that is nowhere else."""
    return new_marker()


@pytest.fixture
def upstream(api: Api) -> Iterator[ToolHttpServer]:
    """A remote server: on this machine, where pods reach it beside the API server."""
    with ToolHttpServer(host=api.host, bind=api.host) as server:
        yield server


def remote(upstream: ToolHttpServer, **settings: Any) -> dict[str, Any]:
    """A spec of kind remote."""
    return {"remote": {"url": upstream.url, **settings}}


def variable(server: Deployed, name: str = "TOKEN") -> str:
    """What a process of the server has in its environment."""
    return server.text("env", name=name).strip('"')


@pytest.mark.timeout(300)
def test_rotations_under_load(
    api: Api, installed: Installed, upstream: ToolHttpServer, namespace: str, marker: str
) -> None:
    """New processes and requests have the new value; nothing is restarted, and no call fails."""
    known = {f"{marker}-0"}

    def judge(seen: Seen) -> Answer | None:
        return None if seen.headers.get("x-key") in known else Answer(status=401)

    upstream.behave = judge
    api.create(secret(namespace, "vendor", token=f"{marker}-0"))
    env = [from_secret("TOKEN", "vendor", "token")]
    servers = {
        "stdio": deploy(api, namespace, "stdio", stdio={"env": env}, secrets=POLL),
        "image": deploy(api, namespace, "image", "stdio-image", stdio={"env": env}, secrets=POLL),
        "remote": deploy(
            api, namespace, "remote", "remote", **remote(upstream, headers=[from_secret("X-Key", "vendor", "token")]),
            secrets=POLL,
        ),
    }  # fmt: skip
    before = {name: server.ready().ready_pods(1)[0] for name, server in servers.items()}
    with contextlib.ExitStack() as stack:
        loads = {
            name: [
                stack.enter_context(SteadyLoad(server.url, callers=3)),
                *([stack.enter_context(SteadyLoad(server.url, callers=2, modern=False))] if name != "remote" else []),
            ]
            for name, server in servers.items()
        }
        for number in range(1, ROTATIONS + 1):
            value = f"{marker}-{number}"
            known.add(value)
            api.apply(secret(namespace, "vendor", token=value))
            for name in ("stdio", "image"):
                eventually(lambda name=name, value=value: variable(servers[name]) == value, f"{value} in {name}", 40)
            eventually(lambda value=value: upstream.calls()[-1].headers["x-key"] == value, f"{value} sent", 40)
            # the vendor forgets the old one as soon as the last call that began with it is over
            for load in loads["remote"]:
                load.turn_over()
            known.intersection_update({value})
        for each in loads.values():
            for load in each:
                load.more()
                assert not load.failures, load.summary()
                assert not load.sessions_lost
    for name, server in servers.items():
        (pod,) = server.ready_pods(1)
        assert pod["metadata"]["uid"] == before[name]["metadata"]["uid"]
        assert restarts(pod) == restarts(before[name]), "no container was restarted"
        if name != "remote":
            at = (pod, "server" if name == "image" else "sidecar")
            eventually(lambda at=at: len(server_processes(*at)) == 1, f"{name} has one process, none of before", 60)


def test_an_http_container_rolls(api: Api, installed: Installed, namespace: str, marker: str) -> None:
    """Its environment is the container's: new pods come, no call fails on the way."""
    api.create(secret(namespace, "vendor", token=f"{marker}-0"))
    server = deploy(api, namespace, "one", "http", http={"env": [from_secret("TOKEN", "vendor", "token")]}, replicas=2)
    before = server.ready().ready_pods(2)
    with SteadyLoad(server.url, callers=4) as load:
        api.apply(secret(namespace, "vendor", token=f"{marker}-1"))
        eventually(lambda: names(server.pods()).isdisjoint(names(before)), "new pods", 90)
        server.ready_pods(2)
        assert variable(server) == f"{marker}-1"
        load.more()
        assert not load.failures, load.summary()


def test_a_missing_key_stops_only_its_server(api: Api, installed: Installed, namespace: str, marker: str) -> None:
    api.create(secret(namespace, "vendor", other="x"))
    env = {"env": [from_secret("TOKEN", "vendor", "token")]}
    whole = deploy(api, namespace, "whole")
    needy = {
        "stdio": deploy(api, namespace, "stdio", stdio=env, secrets=POLL),
        "image": deploy(api, namespace, "image", "stdio-image", stdio=env, secrets=POLL),
        "http": deploy(api, namespace, "http", "http", http=env),
    }
    whole.ready()
    with SteadyLoad(whole.url, callers=3) as load:
        for kind, server in needy.items():
            said = server.wait("SecretsResolved", "False", "KeyMissing")["message"]
            field = f"spec.{kind.replace('image', 'stdio')}.env[TOKEN]"
            assert said == f"Secret vendor has no key token, and {field} needs it; add it"
            assert server.wait("Ready", "False", "KeyMissing")["message"] == said
            assert server.condition("Available")["status"] == "False"
        waiting = {name: {pod["metadata"]["uid"] for pod in server.pods()} for name, server in needy.items()}
        api.apply(secret(namespace, "vendor", other="x", token=marker))
        for name, server in needy.items():
            server.ready()
            assert variable(server) == marker
            if name != "http":
                assert {pod["metadata"]["uid"] for pod in server.pods()} == waiting[name], "the pod that waited"
        load.more()
        assert not load.failures, load.summary()
    assert whole.condition("SecretsResolved")["status"] == "True"


# Nowhere else


def logs(api: Api, namespace: str) -> Iterator[tuple[str, str]]:
    """(place, text) of every container's log, of the life before too."""
    for pod in living(api, namespace):
        name = pod["metadata"]["name"]
        for container in container_ids(pod):
            where = f"/api/v1/namespaces/{namespace}/pods/{name}/log?container={container}"
            yield f"log of {container} in {name}", str(api.request("GET", where))
            with contextlib.suppress(ApiError):  # there was no life before
                yield f"log of {container} in {name}", str(api.request("GET", f"{where}&previous=true"))


def seen_processes(api: Api, namespace: str, needs: set[int]) -> Iterator[tuple[str, str]]:
    """(place, text) of every process of the namespace's containers but those that need the value."""
    for pod in api.list("pods", namespace):
        for container in container_ids(pod):
            for pid, command in processes(pod, container).items():
                what = f"{command} in {pod['metadata']['name']}/{container}"
                for place, text in process_places(what, pid):
                    if pid not in needs or place.startswith("cmdline"):
                        yield place, text


def pages(server: Deployed) -> Iterator[tuple[str, str]]:
    """(place, text) of what the sidecars of an MCPServer serve."""
    for pod in server.pods():
        for path in ("/status", "/metrics", "/readyz", "/livez", "/startupz"):
            yield f"{path} of {server.name}", page(pod, path)[1]


def test_nobody_else_sees_a_value(
    api: Api, installed: Installed, upstream: ToolHttpServer, namespace: str, marker: str
) -> None:
    """Every way to give a secret, used well and used badly; then every place is searched."""
    api.create(secret(namespace, "vendor", token=marker, bearer=f"{marker}-b"))
    api.create(secret(namespace, "whole", FIRST=f"{marker}-w"))
    api.create(secret(namespace, "callers", alice=f"{marker}-alice"))
    env = {"env": [from_secret("TOKEN", "vendor", "token")], "envFrom": [{"secretRef": {"name": "whole"}}]}
    header = [from_secret("X-Key", "vendor", "token")]
    tokens = {"tokens": [{"name": "alice", **key_of("callers", "alice")}]}
    stdio = deploy(api, namespace, "stdio", stdio=env, front=tokens, audit={"enabled": True})
    image = deploy(api, namespace, "image", "stdio-image", stdio=env)
    http = deploy(api, namespace, "http", "http", http={**env, "headers": header})
    far = deploy(
        api,
        namespace,
        "far",
        "remote",
        **remote(upstream, headers=header, bearerToken=key_of("vendor", "bearer")),
        health={"interval": "1s", "timeout": "500ms", "failureThreshold": 2},
    )
    for server in (stdio, image, http, far):
        server.ready()

    alice = stdio.caller(token=f"{marker}-alice")
    assert alice.text("env", name="TOKEN").strip('"') == marker
    assert stdio.caller(token=f"{marker}-wrong").call("echo").wait().status == 401
    alice.text("stderr", text=f"connecting with {marker}!")
    image.text("stderr", text="nothing to see")
    assert variable(image, "FIRST") == f"{marker}-w"
    assert variable(http) == marker
    assert far.text("echo", text="x")
    assert upstream.calls()[-1].headers["x-key"] == marker
    assert upstream.calls()[-1].headers["authorization"] == f"Bearer {marker}-b"
    # what goes wrong must not tell either: a refused credential, a server that dies, an upstream that is gone
    upstream.behave = lambda seen: Answer(status=401)
    far.caller().call("echo", text="x").wait()
    upstream.stop()
    far.caller().call("echo", text="x").wait()
    for server, container in ((stdio, alice), (image, image.caller())):
        container.call("exit").wait()
        eventually(lambda container=container: container.text("echo", text="back"), f"{server} again", 30)
    far.wait("ServerReachable", "False")

    needs = {
        pid
        for server, container in ((stdio, "sidecar"), (image, "server"), (http, "server"))
        for pod in server.pods()
        for pid in server_processes(pod, container)
    }
    assert any(marker in Path(f"/proc/{pid}/environ").read_text() for pid in needs), "the search finds what is there"

    def places() -> Iterator[tuple[str, str]]:
        yield from objects(api, namespace)
        yield from logs(api, namespace)
        yield from logs(api, installed.namespace)
        yield from seen_processes(api, namespace, needs)
        yield from seen_processes(api, installed.namespace, set())
        for server in (stdio, image, http, far):
            yield from pages(server)

    looked = assert_nowhere(marker, places())
    assert looked >= {"log", "environ", "cmdline", "/status", "/metrics", "/api/v1 configmaps", "/api/v1 pods"}
