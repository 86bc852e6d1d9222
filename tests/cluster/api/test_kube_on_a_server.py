"""The operator's client, watches, Lease and Events against a real API server: what only that can show."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.api import Api, ApiError
from cluster.control_plane import Cluster, ControlPlane
from cluster.servers import mcp_server
from mcp_operator import errors
from mcp_operator.kube.access import ServiceAccount, leader_role, roles
from mcp_operator.kube.client import Client
from mcp_operator.kube.connection import Connection
from mcp_operator.kube.events import EventRecorder, ObjectReference
from mcp_operator.kube.informer import Informer
from mcp_operator.kube.lease import LeaderElection
from mcp_operator.kube.resources import CONFIG_MAPS, LEASES, MCP_SERVERS, SECRETS

Object = dict[str, Any]

SELECTOR = "app.kubernetes.io/managed-by=outrigger"
WAIT = 30.0


def config_map(namespace: str, name: str = "one", **data: str) -> Object:
    metadata = {"namespace": namespace, "name": name, "labels": {"app.kubernetes.io/managed-by": "outrigger"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[Client]:
    async with await Client.connect(str(cluster.kubeconfig)) as connected:
        yield connected


async def until(condition: Callable[[], Any], what: str) -> None:
    """Polls: an API server does not say when it has told everybody."""
    try:
        async with asyncio.timeout(WAIT):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"not within {WAIT:g} s: {what}")


async def within(seconds: float, awaitable: Awaitable[Any]) -> Any:
    async with asyncio.timeout(seconds):
        return await awaitable


# Requests


async def test_apply_makes_changes_and_removes(client: Client, namespace: str) -> None:
    made = await client.apply(config_map(namespace, a="1", b="2"))
    assert [(one["manager"], one["operation"]) for one in made["metadata"]["managedFields"]] == [("outrigger", "Apply")]
    again = await client.apply(config_map(namespace, a="1", b="2"))
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"], "nothing to do, nothing written"
    changed = await client.apply(config_map(namespace, a="3"))
    assert changed["data"] == {"a": "3"}


async def test_apply_takes_back_what_is_ours_only(client: Client, api: Api, namespace: str) -> None:
    await client.apply(config_map(namespace, a="1"))
    api.apply(config_map(namespace, a="theirs", b="theirs"), manager="somebody")
    repaired = await client.apply(config_map(namespace, a="1"))
    assert repaired["data"] == {"a": "1", "b": "theirs"}


async def test_trial_writes_nothing(client: Client, namespace: str) -> None:
    tried = await client.apply(config_map(namespace, a="1"), dry_run=True)
    assert tried["data"] == {"a": "1"}
    assert await client.get(CONFIG_MAPS, namespace, "one") is None


async def test_metadata_only(client: Client, namespace: str) -> None:
    applied = await client.apply(config_map(namespace, a="1"), metadata_only=True)
    got = await client.get(CONFIG_MAPS, namespace, "one", metadata_only=True)
    listed = await client.list(CONFIG_MAPS, namespace, label_selector=SELECTOR, metadata_only=True)
    assert len(listed) == 1
    for seen in (applied, got, *listed):
        assert set(seen) <= {"kind", "apiVersion", "metadata"}
        assert seen["metadata"]["managedFields"][0]["manager"] == "outrigger"


async def test_conflicts(client: Client, namespace: str) -> None:
    made = await client.create(config_map(namespace, a="1"))
    uid = made["metadata"]["uid"]
    with pytest.raises(errors.AlreadyExists, match='configmaps "one" already exists'):
        await client.create(config_map(namespace, a="1"))
    assert not await client.delete(CONFIG_MAPS, namespace, "one", uid="another")
    assert await client.delete(CONFIG_MAPS, namespace, "one", uid=uid)
    assert not await client.delete(CONFIG_MAPS, namespace, "one", uid=uid)


async def test_status(client: Client, api: Api, namespace: str) -> None:
    api.create(mcp_server(namespace, replicas=0))
    await client.apply_status(MCP_SERVERS, namespace, "one", {"tools": 3})
    found = await client.get(MCP_SERVERS, namespace, "one")
    assert found is not None
    assert found["status"]["tools"] == 3
    with pytest.raises(errors.NotFound):
        await client.apply_status(MCP_SERVERS, namespace, "two", {"tools": 4})


async def test_refusals_in_the_api_servers_words(client: Client, namespace: str) -> None:
    with pytest.raises(errors.Invalid, match=r"data\[a b\]: Invalid value"):
        await client.apply(config_map(namespace) | {"data": {"a b": ""}})
    with pytest.raises(errors.NotFound, match='namespaces "nowhere-else" not found'):
        await client.apply(config_map("nowhere-else"))


async def test_serves(client: Client) -> None:
    assert await client.serves(LEASES)
    assert await client.serves(MCP_SERVERS)


# Watches


def value(object_: Object) -> str:
    return str((object_.get("data") or {}).get("a"))


class Watching:
    """An informer of ConfigMaps that can be stopped for a while."""

    def __init__(self, client: Client, namespace: str) -> None:
        self.changes: list[tuple[str, str | None]] = []
        self.informer = Informer(client, CONFIG_MAPS, (namespace,), SELECTOR, value, self.note)
        self.task: asyncio.Task[None] | None = None

    def note(self, key: tuple[str, str], old: str | None, new: str | None) -> None:
        self.changes.append((key[1], new))

    async def start(self) -> None:
        self.task = asyncio.create_task(self.informer.run())
        await within(WAIT, self.informer.synced.wait())

    async def stop(self) -> None:
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait({self.task})

    def known(self) -> dict[str, str]:
        return {key[1]: one for key, one in self.informer.items()}


@pytest.fixture
async def watching(client: Client, namespace: str) -> AsyncIterator[Watching]:
    made = Watching(client, namespace)
    yield made
    if made.task is not None:
        await made.stop()


async def test_watch_sees_what_others_do(client: Client, api: Api, namespace: str, watching: Watching) -> None:
    for number in range(250):  # three pages
        await client.apply(config_map(namespace, f"c{number}", a="0"), metadata_only=True)
    await watching.start()
    assert len(watching.informer) == 250
    api.apply(config_map(namespace, "c7", a="1"))
    api.apply(config_map(namespace, "new", a="2"))
    api.delete("configmaps", namespace, "c8")
    # without the label it is no longer one of those that are watched
    api.request(
        "PATCH",
        f"/api/v1/namespaces/{namespace}/configmaps/c9",
        {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}},
        "application/merge-patch+json",
    )
    await until(lambda: ("c9", None) in watching.changes, "the label is gone")
    assert watching.changes[250:] == [("c7", "1"), ("new", "2"), ("c8", None), ("c9", None)]


@pytest.mark.parametrize("kill", [False, True])
async def test_watch_survives_a_restart_of_the_api_server(
    control_plane: ControlPlane, client: Client, namespace: str, watching: Watching, kill: bool
) -> None:
    await client.apply(config_map(namespace, "a", a="1"))
    await watching.start()
    if kill:
        control_plane.api_server.kill()
    else:
        await asyncio.to_thread(control_plane.api_server.stop, timeout=3.0)
    await until(lambda: client.requests["list", "configmaps", "error"], "it is missed")
    control_plane.start_api_server()  # in the thread that lasts as long as it
    control_plane.api.apply(config_map(namespace, "b", a="2"))
    control_plane.api.delete("configmaps", namespace, "a")
    await until(lambda: watching.known() == {"b": "2"}, "what was done since is known")
    assert watching.changes == [("a", "1"), ("b", "2"), ("a", None)]


async def test_versions_that_are_forgotten(
    control_plane: ControlPlane, client: Client, namespace: str, watching: Watching
) -> None:
    await client.apply(config_map(namespace, "kept", a="1"))
    await client.apply(config_map(namespace, "deleted", a="1"))
    await watching.start()
    await watching.stop()
    control_plane.api.delete("configmaps", namespace, "deleted")
    control_plane.api.apply(config_map(namespace, "new", a="2"))
    control_plane.forget_history()
    before = client.requests["list", "configmaps", "200"]
    await watching.start()
    await until(lambda: len(watching.changes) == 4, "everything is known")
    assert watching.known() == {"kept": "1", "new": "2"}
    assert ("deleted", None) in watching.changes
    assert client.requests["list", "configmaps", "200"] == before + 1


async def test_api_server_that_stands_still_holds_up_nobody_for_ever(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": {"namespace": namespace, "name": "l"}}
    await client.create(lease)
    control_plane.api_server.pause()
    try:
        with pytest.raises(errors.Unavailable, match="in time"):
            await client.get(LEASES, namespace, "l", timeout=0.5)
    finally:
        control_plane.api_server.resume()
    assert await client.get(LEASES, namespace, "l") is not None


# The Lease


def candidate(
    client: Client, namespace: str, identity: str, duration: float = 3, deadline: float = 2
) -> LeaderElection:
    return LeaderElection(
        client, namespace, "leader", identity, lease_duration=duration, renew_deadline=deadline, retry_period=0.5
    )


async def test_lease_goes_to_another(cluster: Cluster, client: Client, api: Api, namespace: str) -> None:
    order: list[str] = []
    led = {"a": asyncio.Event(), "b": asyncio.Event()}

    def work(identity: str) -> Callable[[], Any]:
        async def lead() -> None:
            order.append(identity)
            led[identity].set()
            await asyncio.Event().wait()

        return lead

    # long enough that the release is not mistaken for the Lease's end on a busy machine
    first = candidate(client, namespace, "a", 8, 6)
    client.fence = lambda: first.is_leader
    task = asyncio.create_task(first.run(work("a")))
    await within(WAIT, led["a"].wait())
    await client.apply(config_map(namespace, a="1"))
    async with await Client.connect(str(cluster.kubeconfig)) as other_client:
        second = candidate(other_client, namespace, "b", 8, 6)
        other_client.fence = lambda: second.is_leader
        other = asyncio.create_task(second.run(work("b")))
        await until(lambda: second.holder == "a", "b sees a")
        with pytest.raises(errors.NotLeading):
            await other_client.apply(config_map(namespace, a="2"))
        task.cancel()
        await asyncio.wait({task})
        await within(5, led["b"].wait())  # released, so not after lease_duration
        await other_client.apply(config_map(namespace, a="2"))
        spec = api.get("leases", namespace, "leader")["spec"]
        assert (spec["holderIdentity"], spec["leaseTransitions"], spec["leaseDurationSeconds"]) == ("b", 1, 8)
        other.cancel()
        await asyncio.wait({other})
    assert order == ["a", "b"]
    assert api.get("leases", namespace, "leader")["spec"]["holderIdentity"] == ""


async def test_lease_is_lost_where_the_api_server_stands_still(
    control_plane: ControlPlane, client: Client, namespace: str
) -> None:
    election, begun = candidate(client, namespace, "a"), asyncio.Event()

    async def work() -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(election.run(work))
    await within(WAIT, begun.wait())
    control_plane.api_server.pause()
    try:
        with pytest.raises(errors.LeadershipLost):
            await within(4, task)
    finally:
        control_plane.api_server.resume()
    assert not election.is_leader
    begun.clear()
    again = asyncio.create_task(election.run(work))
    await within(WAIT, begun.wait())
    again.cancel()
    await asyncio.wait({again})


# Events


async def test_events_show(client: Client, api: Api, kubectl: Callable[..., str], namespace: str) -> None:
    server = api.create(mcp_server(namespace, replicas=0))
    recorder = EventRecorder(client, "operator-1")
    writing = asyncio.create_task(recorder.run())
    about = ObjectReference.of(server["metadata"])
    for _ in range(2):
        before = client.requests.total()
        recorder.record(about, "Warning", "TestTold", "Secret token is not there", "Resolve")
        await until(lambda before=before: client.requests.total() > before, "written")
    writing.cancel()
    assert not recorder.dropped
    described = await asyncio.to_thread(kubectl, "describe", "mcpserver", "one", "--namespace", namespace)
    line = next(line for line in described.splitlines() if "TestTold" in line)
    assert "Warning" in line
    assert "(x2 over" in line
    assert "outrigger-operator" in line
    assert "Secret token is not there" in line


# Who we are


async def test_roles_are_enough_and_no_more(cluster: Cluster, api: Api, namespace: str, tmp_path: Path) -> None:
    api.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": "operator"}})
    account = ServiceAccount(namespace, "operator")
    for manifest in [*roles([namespace], account), *leader_role(account, lease="leader")]:
        api.create(manifest)
    access = cluster.service_account(namespace, "operator")
    async with await Client.connect(str(access.write(tmp_path / "kubeconfig"))) as client:
        await granted(client, namespace)
        await client.apply(config_map(namespace, a="1"))
        assert await client.get(SECRETS, namespace, "none") is None
        assert await client.serves(LEASES)
        begun = asyncio.Event()

        async def work() -> None:
            begun.set()

        await within(WAIT, candidate(client, namespace, "a").run(work))
        with pytest.raises(errors.Forbidden, match="cannot list resource"):
            await client.list(MCP_SERVERS)
        with pytest.raises(errors.Forbidden, match="forbidden"):
            await client.get(LEASES, namespace, "another")
    denied = access.api()
    for forbidden in (
        lambda: denied.list("secrets", namespace),
        lambda: denied.delete("deployments", namespace, "one"),
        lambda: denied.create(mcp_server(namespace)),
    ):
        with pytest.raises(ApiError) as refused:
            forbidden()
        assert refused.value.status == 403


async def granted(client: Client, namespace: str) -> None:
    """An API server authorizes by what its own watches have told it: rights hold a moment after they are made."""
    async with asyncio.timeout(WAIT):
        while True:
            try:
                await client.list(MCP_SERVERS, namespace)
                return
            except errors.Forbidden:
                await asyncio.sleep(0.05)


async def test_service_account_of_the_pod(
    cluster: Cluster, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = cluster.service_account(namespace, "default")
    token = tmp_path / "token"
    token.write_text(f"{access.token}\n")
    module = "kubernetes.aio.config.incluster_config"
    monkeypatch.setattr(f"{module}.SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(f"{module}.SERVICE_CERT_FILENAME", str(access.ca))
    host, port = access.server.removeprefix("https://").rsplit(":", 1)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    async with Client(await Connection.load()) as client:
        assert client.connection.server == access.server
        assert await client.serves(LEASES)
        with pytest.raises(errors.Forbidden, match=f"system:serviceaccount:{namespace}:default"):
            await client.list(CONFIG_MAPS, namespace)
        # a token that is no longer good, and the next one, as the kubelet writes it
        token.write_text("stale")
        client.connection._refreshed_at = -1e9
        await client.connection._reload()
        token.write_text(f"{access.token}\n")
        client.connection._refreshed_at = -1e9
        assert await client.serves(LEASES)


@pytest.mark.parametrize("how", ["name", "exec"])
async def test_kubeconfigs(control_plane: ControlPlane, tmp_path: Path, how: str) -> None:
    access = control_plane.client("somebody", "system:masters")
    config = yaml.safe_load(access.write(tmp_path / "kubeconfig").read_text())
    if how == "name":
        config["clusters"][0]["cluster"]["tls-server-name"] = "kubernetes.default.svc"
    else:
        credential = {
            "apiVersion": "client.authentication.k8s.io/v1",
            "kind": "ExecCredential",
            "status": {
                "clientCertificateData": access.certificate.read_text(),
                "clientKeyData": access.key.read_text(),
            },
        }
        (tmp_path / "credential").write_text(json.dumps(credential))
        plugin = {"apiVersion": credential["apiVersion"], "command": "cat", "args": [str(tmp_path / "credential")]}
        config["users"][0]["user"] = {"exec": plugin | {"interactiveMode": "Never"}}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    async with await Client.connect(str(tmp_path / "kubeconfig")) as client:
        assert await client.list(CONFIG_MAPS, "kube-system")
        config["clusters"][0]["cluster"]["tls-server-name"] = "elsewhere.test"
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
    async with await Client.connect(str(tmp_path / "kubeconfig")) as client:
        with pytest.raises(errors.Unavailable, match=r"elsewhere\.test"):
            await client.list(CONFIG_MAPS, "kube-system")
